#!/usr/bin/python3
"""lease.py [--knock=N] FOLDER UID GROUP...: an agent at the socket helper.sock in a folder, as another user; lines from standard input go to the
helper, its own to standard output. It holds the TUN that it is given until its input ends. With --knock: N connections, one after the other, and nothing said."""
import os
import select
import socket
import sys

knocks = int(sys.argv.pop(1)[8:]) if sys.argv[1].startswith("--knock=") else 0
folder, uid, groups = sys.argv[1], int(sys.argv[2]), [int(group) for group in sys.argv[3:]]
try:
    os.chdir(folder)
except FileNotFoundError:
    sys.exit()  # The service does not run at the moment.
os.setgroups(groups)
os.setresgid(groups[0], groups[0], groups[0])
os.setresuid(uid, uid, uid)
for _ in range(knocks):
    with socket.socket(socket.AF_UNIX) as door:
        door.connect("helper.sock")
if knocks:
    sys.exit()
helper = socket.socket(socket.AF_UNIX)
try:
    helper.connect("helper.sock")
except (FileNotFoundError, ConnectionRefusedError, PermissionError):
    sys.exit()
held = []
while True:
    ready, _, _ = select.select([0, helper], [], [])
    if 0 in ready:
        line = os.read(0, 1 << 20)
        if not line:
            break
        try:
            helper.sendall(line)
        except BrokenPipeError:
            break
    if helper in ready:
        line, descriptors, _, _ = socket.recv_fds(helper, 1 << 20, 1)
        held += descriptors
        if not line:
            break
        os.write(1, line)
