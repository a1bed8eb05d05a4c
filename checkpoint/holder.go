package checkpoint

import (
	"fmt"
	"strings"
	"time"
)

const (
	maxInstance = 100 // bytes of an instance in the name of a holder
	storeDigits = 12  // hexadecimal digits of File.Holder in the name of a holder
)

// HolderName returns the name of a process among the holders of a lane, such as
// "web-7f9c/4711@2026-11-30T01:20:05Z#3f9a2c1b4d5e": the instance, which is usually the host or the
// pod, the process id, the time when the process started, and the beginning of store, which is
// File.Holder. The random store keeps apart processes that are equal in everything else. The name
// is printable ASCII of at most 160 bytes, for any instance: other characters than letters,
// digits, '.', '_' and '-' become '_', and a long instance is cut.
func HolderName(instance string, pid int, started time.Time, store string) string {
	plain := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '.', r == '_', r == '-':
			return r
		default:
			return '_'
		}
	}, instance[:min(len(instance), maxInstance)])
	if plain == "" {
		plain = "unknown"
	}
	return fmt.Sprintf("%s/%d@%s#%s", plain, pid, started.UTC().Format(time.RFC3339), store[:min(len(store), storeDigits)])
}

// SameStore reports whether two holders use the same checkpoint directory. Its lock lets one
// process in at a time, so if one of the two runs, the other does not. A holder is named by
// HolderName or, by earlier versions of relay, by File.Holder alone.
func SameStore(a, b string) bool {
	one, ok := storeOf(a)
	other, okToo := storeOf(b)
	return ok && okToo && one == other
}

// storeOf returns the beginning of the File.Holder that a name of a holder ends with.
func storeOf(holder string) (string, bool) {
	digits := holder
	if i := strings.LastIndexByte(holder, '#'); i >= 0 {
		if digits = holder[i+1:]; len(digits) != storeDigits {
			return "", false
		}
	} else if len(digits) != holderDigits {
		return "", false
	}
	if strings.Trim(digits, "0123456789abcdef") != "" {
		return "", false
	}
	return digits[:storeDigits], true
}
