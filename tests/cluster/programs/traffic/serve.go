package main

import (
	"bufio"
	"crypto/sha256"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"time"
)

const servedBy = "X-Served-By"

// server answers as name on every port.
type server struct {
	name     string
	received received
}

// received counts what came, for tests of copies. The digests of bodies are added up, so that their order does not matter.
type received struct {
	sync.Mutex
	Requests int64  `json:"requests"`
	Bytes    int64  `json:"bytes"`
	Digests  uint64 `json:"digests"`
}

func serve(arguments []string) {
	host, _ := os.Hostname()
	flags := flag.NewFlagSet("serve", flag.ExitOnError)
	name := flags.String("name", host, "what to answer")
	web := flags.String("http", ":8080", "HTTP/1.1 and h2c")
	rpc := flags.String("grpc", ":8081", "gRPC")
	lines := flags.String("lines", ":9000", "lines over TCP, datagrams over UDP")
	_ = flags.Parse(arguments)
	s := &server{name: *name}
	// An empty address: not that.
	if *lines != "" {
		go s.acceptLines(listen(*lines))
		go s.answerDatagrams(*lines)
	}
	if *rpc != "" {
		go serveGRPC(*name, listen(*rpc))
	}
	if *web == "" {
		select {}
	}
	h := &http.Server{Handler: s.counting(s.routes()), Protocols: new(http.Protocols)}
	h.Protocols.SetHTTP1(true)
	h.Protocols.SetUnencryptedHTTP2(true)
	listener := listen(*web)
	log.Printf("traffic as %s: http %s, grpc %s, lines %s", *name, *web, *rpc, *lines)
	log.Fatal(h.Serve(listener))
}

func listen(address string) net.Listener {
	l, err := net.Listen("tcp", address)
	if err != nil {
		log.Fatal(err)
	}
	return l
}

func (s *server) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %s %s\n", s.name, r.Method, r.URL.Path)
	})
	mux.HandleFunc("/echo", echo)
	mux.HandleFunc("/sse", s.events)
	mux.HandleFunc("/ws", s.webSocket)
	mux.HandleFunc("/slow", func(w http.ResponseWriter, r *http.Request) {
		pause(r, duration(r, "for", 2*time.Second))
		fmt.Fprintln(w, s.name)
	})
	mux.HandleFunc("/hang", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	mux.HandleFunc("/headers", func(w http.ResponseWriter, r *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]any{"server": s.name, "host": r.Host, "caller": r.RemoteAddr, "protocol": r.Proto, "headers": r.Header})
	})
	mux.HandleFunc("/bytes", func(w http.ResponseWriter, r *http.Request) {
		n, _ := strconv.ParseInt(r.FormValue("n"), 10, 64)
		w.Header().Set("Content-Length", strconv.FormatInt(n, 10))
		io.Copy(w, io.LimitReader(zeros{}, n))
	})
	mux.HandleFunc("/discard", func(w http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) })
	mux.HandleFunc("/received", func(w http.ResponseWriter, _ *http.Request) {
		s.received.Lock()
		defer s.received.Unlock()
		_ = json.NewEncoder(w).Encode(&s.received)
	})
	return mux
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

// counting names the server in every answer, and counts every request but questions about the count.
func (s *server) counting(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set(servedBy, s.name)
		if r.URL.Path == "/received" {
			next.ServeHTTP(w, r)
			return
		}
		body := &digesting{ReadCloser: r.Body, hash: sha256.New()}
		r.Body = body
		next.ServeHTTP(w, r)
		s.received.Lock()
		defer s.received.Unlock()
		s.received.Requests++
		s.received.Bytes += body.n
		s.received.Digests += body.digest()
	})
}

func echo(w http.ResponseWriter, r *http.Request) {
	digest := sha256.New()
	// HTTP/1.1 would otherwise stop reading the request at the answer's first byte.
	_ = http.NewResponseController(w).EnableFullDuplex()
	w.Header().Set("Trailer", "X-Digest, X-Echoed")
	n, err := io.Copy(w, io.TeeReader(r.Body, digest))
	w.Header().Set("X-Digest", fmt.Sprintf("%d %x %v", n, digest.Sum(nil), err))
	w.Header().Set("X-Echoed", r.Trailer.Get("X-Trailer"))
}

func (s *server) events(w http.ResponseWriter, r *http.Request) {
	n, err := strconv.Atoi(r.FormValue("n"))
	if err != nil {
		n = 3
	}
	w.Header().Set("Content-Type", "text/event-stream")
	for i := range n {
		fmt.Fprintf(w, "data: %s %d\n\n", s.name, i)
		if http.NewResponseController(w).Flush() != nil || !pause(r, duration(r, "every", 10*time.Millisecond)) {
			return
		}
	}
}

func duration(r *http.Request, field string, otherwise time.Duration) time.Duration {
	if d, err := time.ParseDuration(r.FormValue(field)); err == nil {
		return d
	}
	return otherwise
}

// pause waits; false when the caller went away.
func pause(r *http.Request, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-r.Context().Done():
		return false
	}
}

func (s *server) acceptLines(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go func() {
			defer c.Close()
			for lines := bufio.NewScanner(c); lines.Scan(); {
				fmt.Fprintf(c, "%s %s\n", s.name, lines.Text())
			}
		}()
	}
}

func (s *server) answerDatagrams(address string) {
	p, err := net.ListenPacket("udp", address)
	if err != nil {
		log.Fatal(err)
	}
	buffer := make([]byte, 65535)
	for {
		n, from, err := p.ReadFrom(buffer)
		if err == nil {
			p.WriteTo(fmt.Appendf(nil, "%s %s", s.name, buffer[:n]), from)
		}
	}
}
