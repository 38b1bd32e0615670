// Answers requests under feature flags, whose file it stats for every flag it looks at, in case it changed. Fixed: looks
// twice a second.
package main

import (
	"examples/planted/support/meter"
	"flag"
	"os"
	"strings"
	"time"
)

type flags struct {
	path    string
	looked  time.Time
	changed time.Time
	on      map[string]bool
}

func (f *flags) refresh() {
	if meter.Fixed() && time.Since(f.looked) < 500*time.Millisecond {
		return
	}
	about, err := os.Stat(f.path)
	if err != nil {
		panic(err)
	}
	f.looked = time.Now()
	if about.ModTime().Equal(f.changed) {
		return
	}
	text, err := os.ReadFile(f.path)
	if err != nil {
		panic(err)
	}
	f.changed, f.on = about.ModTime(), map[string]bool{}
	for _, name := range strings.Fields(string(text)) {
		f.on[name] = true
	}
}

func (f *flags) enabled(name string) bool {
	f.refresh()
	return f.on[name]
}

func answer(f *flags, user int) string {
	parts := []string{"user"}
	for _, name := range []string{"new-cart", "one-click", "dark", "beta-search", "coupons", "wishlist"} {
		if f.enabled(name) {
			parts = append(parts, name)
		}
	}
	return strings.Join(parts, ",")
}

func main() {
	flag.Parse()
	file, err := os.CreateTemp("", "flags")
	if err != nil {
		panic(err)
	}
	defer os.Remove(file.Name())
	if _, err := file.WriteString("new-cart dark wishlist"); err != nil {
		panic(err)
	}
	f := &flags{path: file.Name()}
	meter.Ready()
	due, bytes := time.Now(), 0
	for n := 0; meter.GoesOn(); n += 20 {
		since := meter.NextRequest(&due, 2000)
		for user := n; user < n+20; user++ {
			bytes += len(answer(f, user))
		}
		meter.Did(20, since)
	}
	if bytes > 0 {
		meter.Report("answers")
	}
}
