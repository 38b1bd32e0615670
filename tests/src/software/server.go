// An HTTP server whose handler encodes, sorts and compresses.
package main

import (
	"compress/gzip"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"sort"
)

type record struct {
	ID   int
	Name string
}

func main() {
	http.HandleFunc("/", func(out http.ResponseWriter, _ *http.Request) {
		records := make([]record, 200)
		for n := range records {
			records[n] = record{n, fmt.Sprintf("name %d", n*7919%211)}
		}
		sort.Slice(records, func(a, b int) bool { return records[a].Name < records[b].Name })
		packed := gzip.NewWriter(out)
		defer packed.Close()
		if err := json.NewEncoder(packed).Encode(records); err != nil {
			return
		}
	})
	if err := http.ListenAndServe(os.Args[1], nil); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
