// A gateway that signs requests, in a container limited to a quarter of a core; its runtime sees two cores and starts
// as many threads. Fixed: the limit fits the load.
package main

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"examples/planted/support/meter"
	"flag"
	"strings"
	"sync"
	"time"
)

func sign(key, message []byte) string {
	digest := hmac.New(sha256.New, key)
	digest.Write(message)
	return hex.EncodeToString(digest.Sum(nil))
}

func handle(message []byte) int {
	signature := sign([]byte("secret"), message)
	return len(strings.ToUpper(signature)) + len(strings.Split(string(message), "&"))
}

func main() {
	flag.Parse()
	message := []byte(strings.Repeat("field=value&", 4000))
	var all sync.WaitGroup
	meter.Ready()
	for client := 0; client < 2; client++ {
		all.Add(1)
		go func() {
			defer all.Done()
			for due := time.Now(); meter.GoesOn(); {
				since := meter.NextRequest(&due, 800)
				handle(message)
				meter.Did(1, since)
			}
		}()
	}
	all.Wait()
	meter.Report("requests")
}
