// An HTTP server with keep-alive connections, a hundred goroutines that wait for channels, and tickers; a request or two
// a second.
package main

import (
	"examples/planted/support/meter"
	"flag"
	"io"
	"net"
	"net/http"
	"time"
)

func main() {
	flag.Parse()
	door, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	http.HandleFunc("/", func(out http.ResponseWriter, _ *http.Request) { io.WriteString(out, "fine\n") })
	go http.Serve(door, nil)
	work := make(chan int)
	for n := 0; n < 100; n++ {
		go func() {
			for range work {
				time.Sleep(time.Millisecond)
			}
		}()
	}
	meter.Ready()
	for tick := time.NewTicker(500 * time.Millisecond); meter.GoesOn(); <-tick.C {
		since := time.Now()
		if answer, err := http.Get("http://" + door.Addr().String()); err == nil {
			io.Copy(io.Discard, answer.Body)
			answer.Body.Close()
			meter.Did(1, since)
		}
		work <- 1
	}
	meter.Report("requests")
}
