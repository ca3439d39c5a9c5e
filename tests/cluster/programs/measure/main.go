// measure is the client of `make bench`: it prints one figure, or two, on a line.
//
//	measure down|up ADDRESS SECONDS STREAMS   Mbit/s from or to an echo pod's HTTP port
//	measure requests URL COUNT                p50 and p99 of keep-alive requests, one after the other, in ms
//	measure connections ADDRESS SECONDS       new TCP connections a second, one after the other
//	measure names NAME COUNT                  p50 and p99 of lookups by the laptop's resolver, in ms
package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

func main() {
	log.SetFlags(0)
	if len(os.Args) < 4 {
		log.Fatal("usage: measure down|up|requests|connections|names ...")
	}
	what, to := os.Args[1], os.Args[2]
	number, err := strconv.Atoi(os.Args[3])
	if err != nil {
		log.Fatal(err)
	}
	switch what {
	case "down", "up":
		streams, err := strconv.Atoi(os.Args[4])
		if err != nil {
			log.Fatal(err)
		}
		throughput(what, to, time.Duration(number)*time.Second, streams)
	case "requests":
		percentiles(number, func() error {
			r, err := http.Get(to)
			if err != nil {
				return err
			}
			defer r.Body.Close()
			_, err = io.Copy(io.Discard, r.Body)
			return err
		})
	case "connections":
		connections(to, time.Duration(number)*time.Second)
	case "names":
		percentiles(number, func() error {
			_, err := (&net.Resolver{PreferGo: true}).LookupNetIP(context.Background(), "ip4", to)
			return err
		})
	default:
		log.Fatalf("what is %q?", what)
	}
}

// throughput counts what has passed between the first second, when windows are still small, and the last.
func throughput(way, to string, length time.Duration, streams int) {
	const warmUp = time.Second
	var passed atomic.Int64
	var all sync.WaitGroup
	end := time.Now().Add(length + warmUp)
	for range streams {
		all.Add(1)
		go func() {
			defer all.Done()
			if err := stream(way, to, end, &passed); err != nil {
				log.Fatal(err)
			}
		}()
	}
	time.Sleep(warmUp)
	before, start := passed.Load(), time.Now()
	time.Sleep(length)
	fmt.Printf("%.0f\n", float64(passed.Load()-before)*8/1e6/time.Since(start).Seconds())
}

func stream(way, to string, end time.Time, passed *atomic.Int64) error {
	const forever = 1 << 50
	c, err := net.DialTimeout("tcp", to, 5*time.Second)
	if err != nil {
		return err
	}
	defer c.Close()
	buf := make([]byte, 256<<10)
	if way == "up" {
		fmt.Fprintf(c, "POST /discard HTTP/1.0\r\nHost: measure\r\nContent-Length: %d\r\n\r\n", forever)
	} else {
		fmt.Fprintf(c, "GET /bytes?n=%d HTTP/1.0\r\nHost: measure\r\n\r\n", forever)
	}
	for time.Now().Before(end) {
		var n int
		if way == "up" {
			n, err = c.Write(buf)
		} else {
			n, err = c.Read(buf)
		}
		if err != nil {
			return err
		}
		passed.Add(int64(n))
	}
	return nil
}

func connections(to string, length time.Duration) {
	count, start := 0, time.Now()
	for time.Since(start) < length {
		c, err := net.DialTimeout("tcp", to, 5*time.Second)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Fprintln(c, "x")
		if _, err := bufio.NewReader(c).ReadString('\n'); err != nil {
			log.Fatal(err)
		}
		c.Close()
		count++
	}
	fmt.Printf("%.0f\n", float64(count)/time.Since(start).Seconds())
}

func percentiles(count int, once func() error) {
	times := make([]time.Duration, 0, count)
	for range count {
		start := time.Now()
		if err := once(); err != nil {
			log.Fatal(err)
		}
		times = append(times, time.Since(start))
	}
	slices.Sort(times)
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	fmt.Printf("%.2f %.2f\n", ms(times[count/2]), ms(times[count*99/100]))
}
