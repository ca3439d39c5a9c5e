// echo is the pods' server and, in the stand-in internet, the public host. It says who answered and
// who asked, so that a test can see which pod a connection reached and from which address.
//
//	echo [-http ADDRESS]        serve; with -http only HTTP, there
//	echo get URL | udp HOST:PORT TEXT | tcp HOST:PORT TEXT   be a client (pods have no other)
//
// HTTP on :8080: GET / says who, POST /echo returns the body, POST /discard takes it, GET /bytes?n=N gives N bytes of a fixed
// sequence and GET /sha256?n=N their digest, POST /sha256 the digest of the body.
// TCP and UDP on :9000: every line, every datagram comes back with who answered.
// TCP on :9001: reads until the client has finished sending, then says how much came and its digest:
// a half-closed connection must carry that answer.
package main

import (
	"bufio"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"
)

func main() {
	log.SetOutput(os.Stdout)
	if len(os.Args) == 3 && os.Args[1] == "-http" {
		log.Fatal(http.ListenAndServe(os.Args[2], routes(name())))
	}
	if len(os.Args) > 1 {
		if err := client(os.Args[1], os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	host := name()
	go accept(":9000", func(c net.Conn) { lines(host, c) })
	go accept(":9001", digest)
	go datagrams(host)
	log.Printf("echo on %s: http :8080, tcp+udp :9000, tcp :9001", host)
	log.Fatal(http.ListenAndServe(":8080", routes(host)))
}

func name() string {
	host, _ := os.Hostname()
	return host
}

func routes(host string) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		log.Printf("http %s %s from %s", r.Method, r.URL, r.RemoteAddr)
		fmt.Fprintf(w, "host=%s pod_ip=%s client=%s vhost=%s\n", host, os.Getenv("POD_IP"), r.RemoteAddr, r.Host)
	})
	mux.HandleFunc("POST /echo", func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) })
	mux.HandleFunc("POST /discard", func(w http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) })
	mux.HandleFunc("GET /bytes", func(w http.ResponseWriter, r *http.Request) {
		n := count(r)
		w.Header().Set("Content-Length", strconv.FormatInt(n, 10))
		io.Copy(w, sequence(n))
	})
	mux.HandleFunc("GET /sha256", func(w http.ResponseWriter, r *http.Request) { sum(w, sequence(count(r))) })
	mux.HandleFunc("POST /sha256", func(w http.ResponseWriter, r *http.Request) { sum(w, r.Body) })
	return mux
}

func count(r *http.Request) int64 {
	n, _ := strconv.ParseInt(r.FormValue("n"), 10, 64)
	return n
}

func sum(w io.Writer, from io.Reader) {
	digest := sha256.New()
	n, err := io.Copy(digest, from)
	fmt.Fprintf(w, "%d %x", n, digest.Sum(nil))
	if err != nil {
		fmt.Fprintf(w, " cut short: %v", err)
	}
	fmt.Fprintln(w)
}

// sequence yields n bytes in which every place differs, so that lost, doubled and swapped pieces show.
func sequence(n int64) io.Reader { return io.LimitReader(&counter{}, n) }

type counter struct {
	next uint64
	rest []byte
}

func (c *counter) word(into []byte) {
	binary.LittleEndian.PutUint64(into, c.next*0x9E3779B97F4A7C15)
	c.next++
}

func (c *counter) Read(b []byte) (int, error) {
	n := copy(b, c.rest)
	c.rest = c.rest[n:]
	for ; n+8 <= len(b); n += 8 {
		c.word(b[n:])
	}
	if n == 0 {
		word := make([]byte, 8)
		c.word(word)
		n = copy(b, word)
		c.rest = word[n:]
	}
	return n, nil
}

func accept(address string, serve func(net.Conn)) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		log.Fatal(err)
	}
	for {
		c, err := l.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go func() {
			defer c.Close()
			log.Printf("tcp %s from %s", address, c.RemoteAddr())
			serve(c)
		}()
	}
}

func lines(host string, c net.Conn) {
	for s := bufio.NewScanner(c); s.Scan(); {
		fmt.Fprintf(c, "host=%s client=%s line=%s\n", host, c.RemoteAddr(), s.Text())
	}
}

func digest(c net.Conn) { sum(c, c) }

func datagrams(host string) {
	p, err := net.ListenPacket("udp", ":9000")
	if err != nil {
		log.Fatal(err)
	}
	buf := make([]byte, 65535)
	for {
		n, from, err := p.ReadFrom(buf)
		if err != nil {
			continue
		}
		log.Printf("udp %d bytes from %s", n, from)
		p.WriteTo(fmt.Appendf(nil, "host=%s client=%s data=%s", host, from, buf[:n]), from)
	}
}

func client(what string, args []string) error {
	const patience = 5 * time.Second
	switch {
	case what == "get" && len(args) == 1:
		tr := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
		r, err := (&http.Client{Timeout: patience, Transport: tr}).Get(args[0])
		if err != nil {
			return err
		}
		defer r.Body.Close()
		_, err = io.Copy(os.Stdout, r.Body)
		return err
	case (what == "udp" || what == "tcp") && len(args) == 2:
		c, err := net.DialTimeout(what, args[0], patience)
		if err != nil {
			return err
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(patience))
		if _, err := fmt.Fprintln(c, args[1]); err != nil {
			return err
		}
		buf := make([]byte, 65535)
		n, err := c.Read(buf)
		fmt.Println(string(buf[:n]))
		return err
	}
	return fmt.Errorf("usage: echo [-http ADDRESS | get URL | udp HOST:PORT TEXT | tcp HOST:PORT TEXT]")
}
