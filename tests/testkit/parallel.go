//go:build unix

package testkit

import (
	"flag"
	"fmt"
)

// parallelTests is how many tests run at once. They mostly wait, so the number of cores does not matter.
const parallelTests = 16

// RunManyAtOnce raises the number of parallel tests of the calling test binary, unless -parallel is given. Call it first in TestMain.
func RunManyAtOnce() {
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
