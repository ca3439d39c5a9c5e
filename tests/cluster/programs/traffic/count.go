package main

import (
	"slices"
	"sync"
	"time"
)

// count is what a client found, and prints.
type count struct {
	Mode     string            `json:"mode"`
	Requests int               `json:"requests"`
	Servers  map[string]*byOne `json:"servers"`
	Errors   []failure         `json:"errors"`
	Changes  []change          `json:"changes"`
	P50      float64           `json:"p50_ms"`
	P99      float64           `json:"p99_ms"`
	Gap      int64             `json:"gap_ms"`
	Started  int64             `json:"started"`
	Ended    int64             `json:"ended"`
	lock     sync.Mutex
	took     []time.Duration
	latest   struct {
		asked  int64
		server string
		at     int64
	}
}

// byOne is what one server answered. Gap is the longest time between two answers of it.
type byOne struct {
	Answers int   `json:"answers"`
	First   int64 `json:"first"`
	Last    int64 `json:"last"`
	Gap     int64 `json:"gap_ms"`
}

// failure is a question without an answer: when it was asked, and when it was given up.
type failure struct {
	Asked int64  `json:"asked"`
	At    int64  `json:"at"`
	Text  string `json:"text"`
}

// change is the first answer by another server, by when the questions were asked.
type change struct {
	At    int64  `json:"at"`
	Asked int64  `json:"asked"`
	To    string `json:"to"`
}

func newCount(mode string) *count {
	return &count{Mode: mode, Servers: map[string]*byOne{}, Errors: []failure{}, Changes: []change{}, Started: time.Now().UnixMilli()}
}

func (c *count) note(asked time.Time, server string, err error) {
	now := time.Now()
	c.lock.Lock()
	defer c.lock.Unlock()
	c.Requests++
	if err != nil {
		c.Errors = append(c.Errors, failure{asked.UnixMilli(), now.UnixMilli(), err.Error()})
		return
	}
	c.took = append(c.took, now.Sub(asked))
	c.answered(asked.UnixMilli(), now.UnixMilli(), server)
}

func (c *count) answered(asked, now int64, server string) {
	one := c.Servers[server]
	if one == nil {
		one = &byOne{First: now, Last: now}
		c.Servers[server] = one
	}
	one.Answers++
	one.Gap = max(one.Gap, now-one.Last)
	one.Last = now
	if c.latest.at != 0 {
		c.Gap = max(c.Gap, now-c.latest.at)
	}
	// An answer that was asked for earlier and comes later is no change.
	if server != c.latest.server && asked >= c.latest.asked {
		c.Changes = append(c.Changes, change{At: now, Asked: asked, To: server})
	}
	if asked >= c.latest.asked {
		c.latest.asked, c.latest.server = asked, server
	}
	c.latest.at = now
}

// finish works out what can only be told at the end.
func (c *count) finish() {
	c.Ended = time.Now().UnixMilli()
	slices.Sort(c.took)
	if n := len(c.took); n > 0 {
		ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
		c.P50, c.P99 = ms(c.took[n/2]), ms(c.took[n*99/100])
	}
}
