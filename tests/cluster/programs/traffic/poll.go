package main

import (
	"context"
	"log"
	"net"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// poll asks at a steady rate. Questions that have a connection of their own do not wait for each other, so that one that
// hangs hides nothing; those that share one are asked in turn.
func poll(arguments []string) {
	var q question
	flags := q.flags("poll")
	rate := flags.Float64("hz", 50, "questions a second")
	length := flags.Duration("for", 30*time.Second, "how long")
	_ = flags.Parse(arguments)
	asker, err := q.asker()
	if err != nil {
		log.Fatal(err)
	}
	found := newCount(q.mode)
	var asked sync.WaitGroup
	over, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	over, stop = context.WithTimeout(over, *length)
	defer stop()
	ticks := time.NewTicker(time.Duration(float64(time.Second) / *rate))
	alone := slices.Contains([]string{"new", "sse", "echo", "lines", "datagrams"}, q.mode)
	for over.Err() == nil {
		if alone {
			asked.Go(func() { q.once(asker, found) })
		} else {
			q.once(asker, found)
		}
		select {
		case <-ticks.C:
		case <-over.Done():
		}
	}
	asked.Wait()
	found.finish()
	printJSON(found)
}

func (q *question) once(asker asker, found *count) {
	ctx, done := context.WithTimeout(context.Background(), q.patience)
	defer done()
	asked := time.Now()
	server, err := asker.ask(ctx)
	found.note(asked, server, err)
}

// burst asks a number of questions, several at once.
func burst(arguments []string) {
	var q question
	flags := q.flags("burst")
	n := flags.Int("n", 1000, "questions")
	atOnce := flags.Int("c", 8, "askers at once")
	_ = flags.Parse(arguments)
	printJSON(q.several(*n, *atOnce))
}

func (q *question) several(n, atOnce int) *count {
	found := newCount(q.mode)
	questions := make(chan struct{}, n)
	for range n {
		questions <- struct{}{}
	}
	close(questions)
	var all sync.WaitGroup
	for range min(atOnce, n) {
		asker, err := q.asker()
		if err != nil {
			log.Fatal(err)
		}
		all.Go(func() {
			for range questions {
				q.once(asker, found)
			}
		})
	}
	all.Wait()
	found.finish()
	return found
}

// every asks in all modes, each at its port; 0 leaves those out.
func every(arguments []string) {
	var q question
	flags := q.flags("every")
	host := flags.String("host", "", "whom to ask")
	web := flags.Int("http", 80, "HTTP port")
	rpc := flags.Int("grpc", 8081, "gRPC port")
	lines := flags.Int("lines", 9000, "port for lines")
	datagrams := flags.Int("datagrams", 9000, "port for datagrams")
	_ = flags.Parse(arguments)
	found := map[string]*count{}
	ask := func(scheme string, port int, modes ...string) {
		for _, mode := range modes {
			if port == 0 {
				continue
			}
			q.mode, q.to = mode, scheme+net.JoinHostPort(*host, strconv.Itoa(port))
			found[mode] = q.several(3, 1)
		}
	}
	ask("http://", *web, "new", "keepalive", "h2", "ws", "sse", "echo")
	ask("", *rpc, "grpc", "grpc-client", "grpc-server", "grpc-bidi")
	ask("", *lines, "lines", "lines-keep")
	ask("", *datagrams, "datagrams")
	printJSON(found)
}

// streams makes gRPC calls of every kind, each twice, with the headers and without them, all on one connection and several at once.
func streams(arguments []string) {
	var q question
	flags := q.flags("streams")
	n := flags.Int("n", 20, "calls of each kind, with the headers and without")
	_ = flags.Parse(arguments)
	conn, err := dialGRPC(q.to)
	if err != nil {
		log.Fatal(err)
	}
	found := map[string]*count{}
	var all sync.WaitGroup
	for kind := range kinds {
		for name, extra := range map[string]headers{"matched": q.headers, "unmatched": nil} {
			mode := kinds[kind].StreamName + " " + name
			found[mode] = newCount(mode)
			asker := askFunc(func(ctx context.Context) (string, error) { return call(ctx, conn, &kinds[kind], extra) })
			all.Go(func() {
				for range *n {
					q.once(asker, found[mode])
				}
			})
		}
	}
	all.Wait()
	for _, mode := range found {
		mode.finish()
	}
	printJSON(found)
}
