// Package meter is what every program of this folder measures of itself; see meter.h, whose output this prints too.
package meter

import (
	"flag"
	"fmt"
	"sync/atomic"
	"syscall"
	"time"
)

var (
	seconds  = flag.Float64("seconds", 10, "how long to work")
	fixed    = flag.Bool("fixed", false, "run with the problem fixed")
	work     int64
	busy     int64
	begun    time.Time
	cpuBegun float64
)

func cpu() float64 {
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		panic(err)
	}
	return float64(used.Utime.Nano()+used.Stime.Nano()) / 1e9
}

// Fixed tells whether the problem is to be fixed.
func Fixed() bool { return *fixed }

// Ready says that the set-up is over.
func Ready() {
	fmt.Println("ready")
	cpuBegun, begun = cpu(), time.Now()
}

// GoesOn tells whether there is time left.
func GoesOn() bool { return time.Since(begun).Seconds() < *seconds }

// Did counts work that began at `since`.
func Did(pieces int, since time.Time) {
	atomic.AddInt64(&work, int64(pieces))
	atomic.AddInt64(&busy, int64(time.Since(since)))
}

// NextRequest waits for the next of `rate` requests a second; at once while behind.
func NextRequest(due *time.Time, rate float64) time.Time {
	now := time.Now()
	if due.Before(now.Add(-500 * time.Millisecond)) {
		*due = now
	}
	if due.Sub(now) > 2*time.Millisecond {
		time.Sleep(due.Sub(now))
		now = time.Now()
	}
	*due = due.Add(time.Duration(1e9 / rate))
	return now
}

// Report prints what was done.
func Report(unit string) {
	fmt.Printf("{\"unit\":%q,\"work\":%d,\"seconds\":%.3f,\"cpu_s\":%.4f,\"busy_s\":%.4f}\n", unit,
		atomic.LoadInt64(&work), time.Since(begun).Seconds(), cpu()-cpuBegun, float64(atomic.LoadInt64(&busy))/1e9)
}
