package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
)

// As much of RFC 6455 as an echo of short text messages takes.

const (
	opText  = 1
	opClose = 8
)

func accepts(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

func (s *server) webSocket(w http.ResponseWriter, r *http.Request) {
	key := r.Header.Get("Sec-WebSocket-Key")
	if key == "" {
		http.Error(w, "no WebSocket", http.StatusBadRequest)
		return
	}
	conn, buffer, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	defer conn.Close()
	fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n%s: %s\r\nSec-WebSocket-Accept: %s\r\n\r\n",
		servedBy, s.name, accepts(key))
	for {
		message, err := readFrame(buffer.Reader)
		if err != nil || writeFrame(conn, false, s.name+" "+message) != nil {
			return
		}
	}
}

// dialWebSocket opens a WebSocket at a URL whose scheme is http.
func dialWebSocket(ctx context.Context, to string, extra headers) (net.Conn, *bufio.Reader, error) {
	target, err := url.Parse(to)
	if err != nil {
		return nil, nil, err
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", withPort(target))
	if err != nil {
		return nil, nil, err
	}
	if deadline, ok := ctx.Deadline(); ok {
		conn.SetDeadline(deadline)
	}
	reader, err := upgrade(conn, target, extra)
	if err != nil {
		conn.Close()
	}
	return conn, reader, err
}

func withPort(target *url.URL) string {
	if target.Port() == "" {
		return net.JoinHostPort(target.Hostname(), "80")
	}
	return target.Host
}

func upgrade(conn net.Conn, target *url.URL, extra headers) (*bufio.Reader, error) {
	nonce := make([]byte, 16)
	rand.Read(nonce)
	key := base64.StdEncoding.EncodeToString(nonce)
	request := &http.Request{Method: http.MethodGet, URL: target, Host: target.Host, Header: http.Header{
		"Upgrade": {"websocket"}, "Connection": {"Upgrade"}, "Sec-Websocket-Version": {"13"}, "Sec-Websocket-Key": {key}}}
	extra.on(request)
	if err := request.Write(conn); err != nil {
		return nil, err
	}
	reader := bufio.NewReader(conn)
	answer, err := http.ReadResponse(reader, request)
	if err != nil {
		return nil, err
	}
	if answer.StatusCode != http.StatusSwitchingProtocols || answer.Header.Get("Sec-WebSocket-Accept") != accepts(key) {
		return nil, fmt.Errorf("no WebSocket: %s", answer.Status)
	}
	return reader, nil
}

func readFrame(from *bufio.Reader) (string, error) {
	head := make([]byte, 2)
	if _, err := io.ReadFull(from, head); err != nil {
		return "", err
	}
	n := int(head[1] & 0x7f)
	switch n {
	case 126:
		extended := make([]byte, 2)
		if _, err := io.ReadFull(from, extended); err != nil {
			return "", err
		}
		n = int(binary.BigEndian.Uint16(extended))
	case 127:
		return "", fmt.Errorf("a message longer than 64 KiB")
	}
	mask := make([]byte, 4)
	if head[1]&0x80 != 0 {
		if _, err := io.ReadFull(from, mask); err != nil {
			return "", err
		}
	}
	payload := make([]byte, n)
	if _, err := io.ReadFull(from, payload); err != nil {
		return "", err
	}
	if head[0]&0x0f == opClose {
		return "", io.EOF
	}
	for i := range payload {
		payload[i] ^= mask[i%4]
	}
	return string(payload), nil
}

func writeFrame(to io.Writer, masked bool, message string) error {
	frame := []byte{0x80 | opText}
	if len(message) < 126 {
		frame = append(frame, byte(len(message)))
	} else {
		frame = binary.BigEndian.AppendUint16(append(frame, 126), uint16(len(message)))
	}
	payload := []byte(message)
	if masked {
		mask := make([]byte, 4)
		rand.Read(mask)
		frame[1] |= 0x80
		frame = append(frame, mask...)
		for i := range payload {
			payload[i] ^= mask[i%4]
		}
	}
	_, err := to.Write(append(frame, payload...))
	return err
}
