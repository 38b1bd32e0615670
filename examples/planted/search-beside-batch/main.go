// A search service whose container weighs a quarter of a batch job's. Fixed: the batch job weighs next to nothing.
package main

import (
	"examples/planted/support/meter"
	"flag"
	"hash/fnv"
	"sort"
	"strings"
	"time"
)

var words = strings.Fields(strings.Repeat("red green blue shoe shirt hat coat small large cotton wool silk ", 60))

func score(query string) []uint64 {
	scores := make([]uint64, len(words))
	for at, word := range words {
		digest := fnv.New64a()
		digest.Write([]byte(query))
		digest.Write([]byte(word))
		scores[at] = digest.Sum64()
	}
	return scores
}

func search(query string) uint64 {
	scores := score(query)
	sort.Slice(scores, func(a, b int) bool { return scores[a] > scores[b] })
	return scores[0]
}

func main() {
	flag.Parse()
	meter.Ready()
	due, sum := time.Now(), uint64(0)
	for n := 0; meter.GoesOn(); n++ {
		since := meter.NextRequest(&due, 2000)
		sum += search(words[n%len(words)])
		meter.Did(1, since)
	}
	if sum > 0 {
		meter.Report("searches")
	}
}
