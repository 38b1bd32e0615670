// Exports its own memory map as metrics; walks /proc/self/smaps for every scrape of every collector. Fixed: once a
// second.
package main

import (
	"bytes"
	"examples/planted/support/meter"
	"flag"
	"os"
	"strconv"
	"time"
)

var (
	last time.Time
	held []byte
)

func readMap() []byte {
	if meter.Fixed() && time.Since(last) < time.Second {
		return held
	}
	text, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		panic(err)
	}
	last, held = time.Now(), text
	return text
}

func scrape() []byte {
	text := readMap()
	return append([]byte("process_map_bytes "), strconv.Itoa(bytes.Count(text[:256], []byte("\n")))...)
}

func main() {
	flag.Parse()
	meter.Ready()
	due, bytes := time.Now(), 0
	for meter.GoesOn() {
		since := meter.NextRequest(&due, 2500)
		bytes += len(scrape())
		meter.Did(1, since)
	}
	if bytes > 0 {
		meter.Report("scrapes")
	}
}
