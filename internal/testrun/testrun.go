// Package testrun says how a test binary runs its tests.
package testrun

import (
	"flag"
	"fmt"
)

// parallelTests is how many tests run at once.
const parallelTests = 32

// ManyAtOnce raises the number of parallel tests of the calling test binary, unless -parallel is
// given. It is for packages whose tests mostly wait, for timeouts and for other processes, so that
// the number of cores does not matter. Call it first in TestMain.
func ManyAtOnce() {
	flag.Parse()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if given {
		return
	}
	if err := flag.Set("test.parallel", fmt.Sprint(parallelTests)); err != nil {
		panic(err) // the testing package has the flag
	}
}
