// Serves a catalogue as JSON, encoded anew for every request though it hardly ever changes. Fixed: encoded once.
package main

import (
	"encoding/json"
	"examples/planted/support/meter"
	"flag"
	"fmt"
	"time"
)

type article struct {
	ID    int               `json:"id"`
	Name  string            `json:"name"`
	Price float64           `json:"price"`
	Tags  map[string]string `json:"tags"`
}

var (
	catalogue []article
	encoded   []byte
)

func renderCatalogue() []byte {
	if meter.Fixed() && encoded != nil {
		return encoded
	}
	text, err := json.Marshal(catalogue)
	if err != nil {
		panic(err)
	}
	encoded = text
	return text
}

func handleCatalogue(number int) int {
	header := fmt.Sprintf("HTTP/1.1 200 OK\r\nX-Request: %d\r\n\r\n", number)
	return len(header) + len(renderCatalogue())
}

func main() {
	flag.Parse()
	for id := 0; id < 300; id++ {
		catalogue = append(catalogue, article{id, fmt.Sprint("article ", id), float64(id) * 1.07,
			map[string]string{"colour": "blue", "size": fmt.Sprint(id % 40)}})
	}
	meter.Ready()
	due, bytes := time.Now(), 0
	for n := 0; meter.GoesOn(); n++ {
		since := meter.NextRequest(&due, 1200)
		bytes += handleCatalogue(n)
		meter.Did(1, since)
	}
	if bytes > 0 {
		meter.Report("responses")
	}
}
