#!/bin/bash
# PID 1 of kvpn-net, the stand-in internet: a public resolver that knows example.com and little else,
# and a public host with a web server. Every query is logged, so that a test can see what leaked out.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
D=$STATE/$NS_NET
for a in $PUBLIC_DNS/32 $PUBLIC_HOST/32 $PUBLIC_HOST6/128; do ip addr replace "$a" dev lo; done
cat >"$D/Corefile" <<C
.:53 {
    bind $PUBLIC_DNS
    log . "{remote} {type} {name} {proto} {rcode}"
    errors
    template IN A example.com {
        answer "{{ .Name }} 60 IN A $PUBLIC_HOST"
    }
    template IN AAAA example.com {
        answer "{{ .Name }} 60 IN AAAA $PUBLIC_HOST6"
    }
    template ANY ANY {
        rcode NXDOMAIN
        authority ". 60 IN SOA ns.example.com. admin.example.com. 1 3600 600 86400 60"
    }
}
C
hostname public-host
"$BIN/coredns" -conf "$D/Corefile" >"$D/queries.log" 2>&1 &
"$BIN/echo" -http "[::]:80" >"$D/web.log" 2>&1 &
exec "$BIN/pause"
