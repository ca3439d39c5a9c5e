//! What leaves a session: packets sealed for the path in use, held while it has no room or none works, and handshakes.

use std::time::Instant;

use kvpn_wire::fq_codel::{self, FqCodel};
use kvpn_wire::offload::{MAX_PACKET, Malformed, Segmentation, Split, trailer};
use kvpn_wire::wireguard::{MAX_HANDSHAKE, OVERHEAD, Sealed};

use super::{MAX_PADDING, MAX_TRANSMITS, Room, Session};
use crate::event::Path;
use crate::kept::Kept;

impl Session {
    /// Seals a packet and queues it for the path in use. While no path is known to work it waits inside.
    pub(crate) fn send(&mut self, packet: &[u8], now: Instant) {
        match self.working_path() {
            Some(path) => self.send_on(path, packet, now),
            None => {
                self.kept.get_or_insert_with(Kept::new).keep(packet);
                self.paths.data_waits(now);
            }
        }
    }

    fn send_on(&mut self, path: Path, packet: &[u8], now: Instant) {
        if self.is_too_long(path, packet.len()) {
            return self.send_too_long(path, packet, now);
        }
        if self.seal_to(path, packet, now) {
            self.paths.data_sent(now);
        }
        if let Some(room) = self.room.as_mut().filter(|_| path == Path::Api) {
            room.bytes = room
                .bytes
                .saturating_sub(packet.len() + MAX_PADDING + OVERHEAD);
        }
    }

    pub(super) fn working_path(&self) -> Option<Path> {
        self.paths.current().filter(|_| self.paths.established())
    }

    /// A program's packet, or all that a super-packet stands for. What finds no room on the path waits, and may be lost
    /// so that its flow slows down.
    ///
    /// # Errors
    /// The packet is not what `segmentation` says.
    pub(crate) fn send_or_wait(
        &mut self,
        packet: &[u8],
        segmentation: Segmentation,
        now: Instant,
    ) -> Result<(), Malformed> {
        let piece = self.piece_len();
        if segmentation == Segmentation::Whole || packet.len() <= piece {
            return self.send_piece(packet, segmentation, now);
        }
        let mut pieces = Split::new(packet, segmentation)?;
        let mut buffer = std::mem::take(&mut self.piece);
        let mut sent = Ok(());
        while sent.is_ok()
            && let Some((n, segmentation)) = pieces.next_super(piece, &mut buffer)
        {
            sent = self.send_piece(&buffer[..n], segmentation, now);
        }
        self.piece = buffer;
        sent
    }

    /// The shell's carrier for `path` takes so much at present. Said of `api` only: UDP manages no queue.
    pub(crate) fn path_room(&mut self, path: Path, room: Room, now: Instant) {
        if path == Path::Api {
            self.room = Some(room);
            self.serve(now);
        }
    }

    /// Sends of what waits as much as there is room for.
    pub(crate) fn serve(&mut self, now: Instant) {
        while self.has_room()
            && let Some(mut waiting) = self.waiting.take_if(|waiting| !waiting.is_empty())
        {
            if let Some((packet, segmentation)) = waiting.pop(now)
                && self.send_all(packet, segmentation, now).is_err()
            {
                *self.drops.entry("tun_malformed").or_default() += 1;
            }
            self.waiting = Some(waiting);
        }
    }

    /// Whether more packets may be sealed now.
    pub(crate) fn has_room(&self) -> bool {
        self.transmits.len() < MAX_TRANSMITS / 2 && self.path_left() > 0
    }

    /// Another stream, another room.
    pub(super) fn forget_room(&mut self, path: Path) {
        if path == Path::Api {
            self.room = None;
        }
    }

    /// Bytes that the path in use takes.
    fn path_left(&self) -> usize {
        match (self.working_path(), self.room) {
            (Some(Path::Api), Some(room)) => room.bytes,
            _ => usize::MAX,
        }
    }

    fn piece_len(&self) -> usize {
        match (self.working_path(), self.room) {
            (Some(Path::Api), Some(room)) => room.piece.clamp(self.mtu, trailer::MAX_SUPER),
            _ => MAX_PACKET,
        }
    }

    fn send_piece(
        &mut self,
        packet: &[u8],
        segmentation: Segmentation,
        now: Instant,
    ) -> Result<(), Malformed> {
        let others_wait = (self.waiting.as_ref()).is_some_and(|waiting| !waiting.is_empty());
        if !others_wait && self.path_left() > 0 {
            return self.send_all(packet, segmentation, now);
        }
        let seed = u64::from(self.probe.ident);
        self.waiting
            .get_or_insert_with(|| Box::new(FqCodel::new(fq_codel::Settings::default(), seed)))
            .push(segmentation, packet, now);
        Ok(())
    }

    /// Seals a packet, or all that a super-packet stands for: as one where the path and the gateway take it.
    fn send_all(
        &mut self,
        packet: &[u8],
        segmentation: Segmentation,
        now: Instant,
    ) -> Result<(), Malformed> {
        if segmentation == Segmentation::Whole {
            self.send(packet, now);
            return Ok(());
        }
        if (self.working_path()).is_some_and(|path| self.takes_super_packets(path))
            && self.send_super(packet, segmentation, now)
        {
            return Ok(());
        }
        let mut packets = Split::new(packet, segmentation)?;
        let longest = packets.max_len();
        let mut segment = std::mem::take(&mut self.segment);
        while let Some(n) = packets.next(&mut segment) {
            // One refusal is enough for all of them.
            if self.refuses(&segment[..n], longest) {
                self.refuse(&segment[..n]);
                break;
            }
            self.send(&segment[..n], now);
        }
        self.segment = segment;
        Ok(())
    }

    /// Sends a super-packet as one datagram; false when it is too long for that.
    fn send_super(&mut self, packet: &[u8], segmentation: Segmentation, now: Instant) -> bool {
        let mut plaintext = std::mem::take(&mut self.plaintext);
        let n = plaintext
            .get_mut(..packet.len())
            .map(|buffer| buffer.copy_from_slice(packet))
            .and_then(|()| trailer::append(&mut plaintext, packet.len(), segmentation));
        if let Some(n) = n {
            self.send(&plaintext[..n], now);
        }
        self.plaintext = plaintext;
        n.is_some()
    }

    /// Super-packets go over the stream only: a datagram has to fit the path.
    pub(super) fn takes_super_packets(&self, path: Path) -> bool {
        self.super_packets && path == Path::Api
    }

    /// True when the packet is on its way. Without a session it waits in the tunnel, and a handshake is.
    pub(super) fn seal_to(&mut self, path: Path, packet: &[u8], now: Instant) -> bool {
        let room = (packet.len() + MAX_PADDING + OVERHEAD).max(MAX_HANDSHAKE);
        let mut sealed = false;
        let tunnel = &mut self.tunnel;
        self.transmits
            .push_with(path, room, |out| match tunnel.seal(packet, out, now) {
                Sealed::Datagram(n) => {
                    sealed = true;
                    n
                }
                Sealed::Handshake(n) => n,
                Sealed::Queued | Sealed::Dropped => 0,
            });
        sealed
    }

    /// What waited for the session goes out.
    pub(super) fn flush(&mut self, now: Instant) {
        while let Some(path) = self.paths.current()
            && let Some(n) = self.tunnel.flush_queued(&mut self.scratch, now)
        {
            self.transmits.push(path, &self.scratch[..n]);
            self.paths.data_sent(now);
        }
    }

    /// What waited for a path that works goes out.
    pub(super) fn send_kept(&mut self, now: Instant) {
        let Some(path) = self.working_path() else {
            return;
        };
        if let Some(mut kept) = self.kept.take() {
            *self.drops.entry("waited_too_long").or_default() += kept.dropped();
            while let Some(packet) = kept.pop() {
                self.send_on(path, packet, now);
            }
        }
    }

    /// What the tunnel itself wants to send, the first `n` bytes of `scratch`: on one path only. The gateway takes one copy
    /// of an initiation; were it sent on several, a path that works one way only could swallow it.
    pub(super) fn push_own(&mut self, n: usize) {
        let path = self
            .paths
            .current()
            .or_else(|| self.paths.handshake_order().pop());
        if let Some(path) = path {
            self.transmits.push(path, &self.scratch[..n]);
        }
    }

    /// A handshake on all of these paths at once. This end knows the answers to its last two initiations only, so the
    /// last path has one of its own and all others share one: the gateway answers the copy that comes first and refuses
    /// the rest. Should the path of that copy not carry the answer, the last path still does; each gets its turn there.
    pub(super) fn initiate_on(&mut self, paths: &[Path], now: Instant) {
        let Some((last, others)) = paths.split_last() else {
            return;
        };
        for paths in [others, std::slice::from_ref(last)] {
            if !paths.is_empty()
                && let Some(n) = self.tunnel.initiate(&mut self.scratch, now)
            {
                for path in paths {
                    self.transmits.push(*path, &self.scratch[..n]);
                }
            }
        }
    }

    pub(super) fn push(&mut self, path: Path, datagram: &[u8]) {
        self.transmits.push(path, datagram);
    }
}
