// traffic is both ends of the tests of exposures: a server that says its name in many protocols, and clients that count who
// answered. What a client counted it prints as one JSON document; times are milliseconds since the epoch, so that they
// can be laid beside the test's own clock.
//
//	traffic serve [-name NAME] [-http :8080] [-grpc :8081] [-lines :9000]   HTTP/1.1 and h2c; gRPC; lines over TCP and datagrams over UDP
//	traffic poll -mode MODE -to URL|HOST:PORT [-hz 50] [-for 30s]         one after the other, until the time is over or SIGINT
//	traffic burst -mode MODE -to URL|HOST:PORT [-n 1000] [-c 8]           a number of questions, C at once
//	traffic every -host HOST [-http 80] [-grpc 8081] [-lines 9000] [-datagrams 9000]   three questions in every mode that these ports have
//	traffic streams -to HOST:PORT -header 'x-dev: ana' [-n 20]           gRPC: streams with and without the header on one connection
//
// MODE: new (HTTP/1.1, a connection for each), keepalive, h2, ws, sse, echo (a body there and back, with trailers), grpc,
// grpc-client, grpc-server, grpc-bidi, lines (TCP, a connection for each), lines-keep, datagrams.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"net/http"
	"os"
	"strings"
	"time"
)

func main() {
	log.SetFlags(0)
	if len(os.Args) < 2 {
		log.Fatal("usage: traffic serve|poll|burst|every|streams ...")
	}
	what, arguments := os.Args[1], os.Args[2:]
	switch what {
	case "serve":
		serve(arguments)
	case "poll":
		poll(arguments)
	case "burst":
		burst(arguments)
	case "every":
		every(arguments)
	case "streams":
		streams(arguments)
	default:
		log.Fatalf("what is %q?", what)
	}
}

// question is what a client was told to ask: the flags that poll, burst and streams share.
type question struct {
	mode, to, path, method string
	headers                headers
	patience               time.Duration
}

func (q *question) flags(name string) *flag.FlagSet {
	flags := flag.NewFlagSet(name, flag.ExitOnError)
	flags.StringVar(&q.mode, "mode", "new", "how to ask")
	flags.StringVar(&q.to, "to", "", "a URL, or HOST:PORT for gRPC, lines and datagrams")
	flags.StringVar(&q.path, "path", "", "to add to the URL")
	flags.StringVar(&q.method, "method", http.MethodGet, "of HTTP requests")
	flags.DurationVar(&q.patience, "patience", 5*time.Second, "for one answer")
	flags.Var(&q.headers, "header", "NAME: VALUE, for HTTP and gRPC; may be repeated")
	return flags
}

type header struct{ name, value string }

type headers []header

func (h *headers) String() string { return fmt.Sprint(*h) }

func (h *headers) Set(text string) error {
	name, value, ok := strings.Cut(text, ":")
	if !ok {
		return fmt.Errorf("%q is no header", text)
	}
	*h = append(*h, header{strings.TrimSpace(name), strings.TrimSpace(value)})
	return nil
}

func (h headers) on(r *http.Request) {
	for _, header := range h {
		r.Header.Add(header.name, header.value)
	}
}

func printJSON(what any) {
	encoder := json.NewEncoder(os.Stdout)
	if err := encoder.Encode(what); err != nil {
		log.Fatal(err)
	}
}
