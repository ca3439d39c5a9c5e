package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
)

// asker asks one question and gives the name of who answered. Not for several goroutines at once.
type asker interface {
	ask(ctx context.Context) (string, error)
}

type askFunc func(ctx context.Context) (string, error)

func (f askFunc) ask(ctx context.Context) (string, error) { return f(ctx) }

func (q *question) asker() (asker, error) {
	switch q.mode {
	case "new":
		return askFunc(func(ctx context.Context) (string, error) { return q.get(ctx, transport(false, false), q.to+q.path) }), nil
	case "keepalive", "h2":
		kept := transport(q.mode == "h2", true)
		return askFunc(func(ctx context.Context) (string, error) { return q.get(ctx, kept, q.to+q.path) }), nil
	case "sse":
		return askFunc(q.readEvents), nil
	case "echo":
		return askFunc(q.echo), nil
	case "ws":
		return &overWebSocket{q: q}, nil
	case "lines":
		return askFunc(func(ctx context.Context) (string, error) {
			once := overLines{q: q}
			defer once.close()
			return once.ask(ctx)
		}), nil
	case "lines-keep":
		return &overLines{q: q}, nil
	case "datagrams":
		return askFunc(q.datagram), nil
	}
	return q.grpcAsker()
}

func (q *question) grpcAsker() (asker, error) {
	names := map[string]int{"grpc": 0, "grpc-client": 1, "grpc-server": 2, "grpc-bidi": 3}
	kind, ok := names[q.mode]
	if !ok {
		return nil, fmt.Errorf("no mode %q", q.mode)
	}
	conn, err := dialGRPC(q.to)
	if err != nil {
		return nil, err
	}
	return askFunc(func(ctx context.Context) (string, error) { return call(ctx, conn, &kinds[kind], q.headers) }), nil
}

func transport(h2, keep bool) *http.Transport {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(!h2)
	protocols.SetUnencryptedHTTP2(h2)
	return &http.Transport{Protocols: protocols, DisableKeepAlives: !keep, MaxConnsPerHost: 1}
}

func (q *question) request(ctx context.Context, method, to string, body io.Reader) (*http.Request, error) {
	request, err := http.NewRequestWithContext(ctx, method, to, body)
	if err == nil {
		q.headers.on(request)
	}
	return request, err
}

func (q *question) get(ctx context.Context, through http.RoundTripper, to string) (string, error) {
	request, err := q.request(ctx, q.method, to, nil)
	if err != nil {
		return "", err
	}
	answer, err := through.RoundTrip(request)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	if _, err := io.Copy(io.Discard, answer.Body); err != nil {
		return "", err
	}
	return server200(answer)
}

func server200(answer *http.Response) (string, error) {
	if answer.StatusCode != http.StatusOK {
		return "", errors.New(answer.Status)
	}
	return answer.Header.Get(servedBy), nil
}

func (q *question) readEvents(ctx context.Context) (string, error) {
	request, err := q.request(ctx, http.MethodGet, q.to+"/sse?n=3", nil)
	if err != nil {
		return "", err
	}
	answer, err := transport(false, false).RoundTrip(request)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	var names same
	for lines := bufio.NewScanner(answer.Body); lines.Scan(); {
		if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
			names.add(data)
		}
	}
	if len(names.names) != 3 {
		return "", fmt.Errorf("%d of 3 events", len(names.names))
	}
	return names.the()
}

// echo sends 256 KiB without saying how much, and a trailer; all of it has to come back.
func (q *question) echo(ctx context.Context) (string, error) {
	body := make([]byte, 256<<10)
	for i := range body {
		body[i] = byte(rand.Uint32())
	}
	request, err := q.request(ctx, http.MethodPost, q.to+"/echo", io.NopCloser(bytes.NewReader(body)))
	if err != nil {
		return "", err
	}
	request.ContentLength = -1
	// Who does not say that it takes trailers may get none (RFC 9110, section 6.5.1).
	request.Header.Set("TE", "trailers")
	request.Trailer = http.Header{"X-Trailer": {"said at the end"}}
	answer, err := transport(false, false).RoundTrip(request)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	back, err := io.ReadAll(answer.Body)
	if err != nil {
		return "", err
	}
	want := fmt.Sprintf("%d %x <nil>", len(body), sha256.Sum256(body))
	if !bytes.Equal(back, body) || answer.Trailer.Get("X-Digest") != want {
		return "", fmt.Errorf("%d bytes came back, trailer X-Digest %q", len(back), answer.Trailer.Get("X-Digest"))
	}
	if answer.Trailer.Get("X-Echoed") != "said at the end" {
		return "", fmt.Errorf("the request's trailer arrived as %q", answer.Trailer.Get("X-Echoed"))
	}
	return server200(answer)
}

// overWebSocket keeps one connection as long as it serves.
type overWebSocket struct {
	q      *question
	conn   net.Conn
	reader *bufio.Reader
}

func (o *overWebSocket) ask(ctx context.Context) (string, error) {
	if o.conn == nil {
		conn, reader, err := dialWebSocket(ctx, o.q.to+"/ws", o.q.headers)
		if err != nil {
			return "", err
		}
		o.conn, o.reader = conn, reader
	}
	answer, err := o.exchange(ctx)
	if err != nil {
		o.conn.Close()
		o.conn = nil
	}
	return firstWord(answer), err
}

func (o *overWebSocket) exchange(ctx context.Context) (string, error) {
	deadline, _ := ctx.Deadline()
	o.conn.SetDeadline(deadline)
	if err := writeFrame(o.conn, true, "hello"); err != nil {
		return "", err
	}
	return readFrame(o.reader)
}

// overLines keeps one TCP connection as long as it serves.
type overLines struct {
	q      *question
	conn   net.Conn
	reader *bufio.Reader
}

func (o *overLines) ask(ctx context.Context) (string, error) {
	if o.conn == nil {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", o.q.to)
		if err != nil {
			return "", err
		}
		o.conn, o.reader = conn, bufio.NewReader(conn)
	}
	deadline, _ := ctx.Deadline()
	o.conn.SetDeadline(deadline)
	fmt.Fprintln(o.conn, "hello")
	answer, err := o.reader.ReadString('\n')
	if err != nil {
		o.close()
	}
	return firstWord(answer), err
}

func (o *overLines) close() {
	if o.conn != nil {
		o.conn.Close()
		o.conn = nil
	}
}

func (q *question) datagram(ctx context.Context) (string, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "udp", q.to)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	conn.SetDeadline(deadline)
	fmt.Fprint(conn, "hello")
	buffer := make([]byte, 65535)
	n, err := conn.Read(buffer)
	return firstWord(string(buffer[:n])), err
}

func firstWord(text string) string {
	word, _, _ := strings.Cut(text, " ")
	return word
}
