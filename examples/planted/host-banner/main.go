// Puts the name of its host into every answer, and starts a program to ask for it. Fixed: asks once.
package main

import (
	"bytes"
	"examples/planted/support/meter"
	"flag"
	"os/exec"
	"time"
)

var held []byte

func hostName() []byte {
	if meter.Fixed() && held != nil {
		return held
	}
	name, err := exec.Command("uname", "-n").Output()
	if err != nil {
		panic(err)
	}
	held = bytes.TrimSpace(name)
	return held
}

func answer() []byte {
	return append([]byte("served by "), hostName()...)
}

func main() {
	flag.Parse()
	meter.Ready()
	due, written := time.Now(), 0
	for meter.GoesOn() {
		since := meter.NextRequest(&due, 150)
		written += len(answer())
		meter.Did(1, since)
	}
	if written > 0 {
		meter.Report("answers")
	}
}
