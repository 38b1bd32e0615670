// A pricing service that looks for a tenant's own price file on every request; hardly any tenant has one. Fixed: what
// is not there is remembered for a second.
package main

import (
	"encoding/json"
	"errors"
	"examples/planted/support/meter"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

type quote struct {
	Tenant int     `json:"tenant"`
	Price  float64 `json:"price"`
}

var (
	folder string
	absent = map[int]time.Time{}
)

func loadOverride(tenant int) (float64, error) {
	if seen, known := absent[tenant]; meter.Fixed() && known && time.Since(seen) < time.Second {
		return 0, fs.ErrNotExist
	}
	for _, name := range []string{"price.json", "price.yaml", "price.toml", "defaults.json"} {
		text, err := os.ReadFile(filepath.Join(folder, fmt.Sprint("tenant-", tenant), name))
		if err == nil {
			var price float64
			return price, json.Unmarshal(text, &price)
		}
	}
	absent[tenant] = time.Now()
	return 0, fs.ErrNotExist
}

func quotePrice(tenant int, base float64) []byte {
	price, err := loadOverride(tenant)
	if errors.Is(err, fs.ErrNotExist) {
		price = base
	}
	text, err := json.Marshal(quote{tenant, price})
	if err != nil {
		panic(err)
	}
	return text
}

func main() {
	flag.Parse()
	var err error
	if folder, err = os.MkdirTemp("", "tenants"); err != nil {
		panic(err)
	}
	defer os.RemoveAll(folder)
	meter.Ready()
	due, bytes := time.Now(), 0
	for n := 0; meter.GoesOn(); n++ {
		since := meter.NextRequest(&due, 40000)
		bytes += len(quotePrice(n%50, 9.99))
		meter.Did(1, since)
	}
	if bytes > 0 {
		meter.Report("quotes")
	}
}
