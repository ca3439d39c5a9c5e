package main

import (
	"encoding/binary"
	"hash"
	"io"
)

// digesting is a body that is counted and digested while it is read.
type digesting struct {
	io.ReadCloser
	hash hash.Hash
	n    int64
}

func (d *digesting) Read(b []byte) (int, error) {
	n, err := d.ReadCloser.Read(b)
	d.hash.Write(b[:n])
	d.n += int64(n)
	return n, err
}

func (d *digesting) digest() uint64 { return binary.BigEndian.Uint64(d.hash.Sum(nil)) }
