package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// The four kinds of calls of gRPC; a message is a text. Every answer begins with the server's name.
const grpcService = "kvpn.test.Traffic"

// streamLength is how many messages go each way where there is more than one.
const streamLength = 3

var kinds = []grpc.StreamDesc{
	{StreamName: "Unary", Handler: inTurn},
	{StreamName: "Client", Handler: atTheEnd, ClientStreams: true},
	{StreamName: "Server", Handler: manyTimes, ServerStreams: true},
	{StreamName: "Bidi", Handler: inTurn, ClientStreams: true, ServerStreams: true},
}

func serveGRPC(name string, l net.Listener) {
	s := grpc.NewServer()
	s.RegisterService(&grpc.ServiceDesc{ServiceName: grpcService, HandlerType: (*any)(nil), Streams: kinds}, name)
	log.Fatal(s.Serve(l))
}

func said(name any, texts int) *wrapperspb.StringValue {
	return wrapperspb.String(fmt.Sprintf("%s %d", name, texts))
}

func inTurn(name any, stream grpc.ServerStream) error {
	for n := 1; ; n++ {
		if err := stream.RecvMsg(new(wrapperspb.StringValue)); err != nil {
			return notTheEnd(err)
		}
		if err := stream.SendMsg(said(name, n)); err != nil {
			return err
		}
	}
}

func atTheEnd(name any, stream grpc.ServerStream) error {
	for n := 0; ; n++ {
		switch err := stream.RecvMsg(new(wrapperspb.StringValue)); {
		case errors.Is(err, io.EOF):
			return stream.SendMsg(said(name, n))
		case err != nil:
			return err
		}
	}
}

func manyTimes(name any, stream grpc.ServerStream) error {
	if err := stream.RecvMsg(new(wrapperspb.StringValue)); err != nil {
		return err
	}
	for n := range streamLength {
		if err := stream.SendMsg(said(name, n+1)); err != nil {
			return err
		}
	}
	return nil
}

func notTheEnd(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

func dialGRPC(to string) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///"+to, grpc.WithTransportCredentials(insecure.NewCredentials()))
}

// call makes one call of a kind and gives the name of the one server that every answer came from.
func call(ctx context.Context, conn *grpc.ClientConn, kind *grpc.StreamDesc, extra headers) (string, error) {
	for _, header := range extra {
		ctx = metadata.AppendToOutgoingContext(ctx, header.name, header.value)
	}
	stream, err := conn.NewStream(ctx, kind, "/"+grpcService+"/"+kind.StreamName)
	if err != nil {
		return "", err
	}
	var names same
	sent := 1
	if kind.ClientStreams {
		sent = streamLength
	}
	for n := range sent {
		if err := stream.SendMsg(wrapperspb.String(fmt.Sprint(n))); err != nil && !errors.Is(err, io.EOF) {
			return "", err
		}
		// In turn: the answer to each message has to come before the next one is sent.
		if kind.ClientStreams && kind.ServerStreams {
			if err := names.receive(stream); err != nil {
				return "", err
			}
		}
	}
	if err := stream.CloseSend(); err != nil {
		return "", err
	}
	for {
		err := names.receive(stream)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return "", err
		}
		if !kind.ServerStreams {
			break
		}
	}
	return names.the()
}

// same collects names that have to be one.
type same struct{ names []string }

func (s *same) receive(stream grpc.ClientStream) error {
	answer := new(wrapperspb.StringValue)
	err := stream.RecvMsg(answer)
	if err == nil {
		s.add(answer.GetValue())
	}
	return err
}

// add takes an answer, whose first word is the name.
func (s *same) add(answer string) { s.names = append(s.names, firstWord(answer)) }

func (s *same) the() (string, error) {
	if len(s.names) == 0 {
		return "", errors.New("no answer")
	}
	for _, name := range s.names {
		if name != s.names[0] {
			return "", fmt.Errorf("one question was answered by several servers: %v", s.names)
		}
	}
	return s.names[0], nil
}
