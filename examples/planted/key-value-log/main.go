// A key-value store that syncs its log on every put. Fixed: on every hundredth.
package main

import (
	"encoding/binary"
	"examples/planted/support/meter"
	"flag"
	"os"
	"time"
)

type store struct {
	log     *os.File
	values  map[uint64]uint64
	pending int
}

func (s *store) syncLog() {
	if err := s.log.Sync(); err != nil {
		panic(err)
	}
	s.pending = 0
}

func (s *store) put(key, value uint64) {
	var record [512]byte
	binary.LittleEndian.PutUint64(record[:], key)
	binary.LittleEndian.PutUint64(record[8:], value)
	if _, err := s.log.Write(record[:]); err != nil {
		panic(err)
	}
	s.values[key] = value
	if s.pending++; !meter.Fixed() || s.pending >= 100 {
		s.syncLog()
	}
}

func main() {
	flag.Parse()
	log, err := os.CreateTemp("/var/tmp", "key-value-log")
	if err != nil {
		panic(err)
	}
	defer os.Remove(log.Name())
	s := &store{log: log, values: map[uint64]uint64{}}
	meter.Ready()
	for n := uint64(0); meter.GoesOn(); n++ {
		since := time.Now()
		s.put(n%1000, n)
		meter.Did(1, since)
	}
	meter.Report("puts")
}
