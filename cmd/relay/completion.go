package main

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
	"go.yaml.in/yaml/v4"

	"workos-relay/internal/app"
	"workos-relay/internal/manual"
	"workos-relay/sink"
	"workos-relay/source"
	"workos-relay/state"
)

type completionCmd struct {
	Shell string `arg:"" help:"One of ${enum}." enum:"bash,zsh,fish"`
}

// completionLine is the variable that holds the line being typed, up to the cursor. bash sets it by
// itself, together with the position of the cursor (COMP_POINT), which the command must respect.
const (
	completionLine  = "COMP_LINE"
	completionPoint = "COMP_POINT"
)

// completions are what each shell evaluates when it starts. Afterwards it asks relay at each press
// of Tab.
var completions = map[string]string{
	"bash": "complete -o bashdefault -o default -C 'command relay' relay\n",
	"fish": "complete -c relay -f -a '(env COMP_LINE=(commandline -cp) relay)'\n",
	"zsh": `_relay() {
  local -a offered=("${(@f)$(COMP_LINE="${(j: :)words[1,CURRENT-1]} ${words[CURRENT]}" command relay)}")
  if [[ -n "$offered" ]]; then compadd -a offered; else _files; fi
}
compdef _relay relay
`,
}

// Run prints the script that makes a shell ask relay.
func (c *completionCmd) Run(env *environment) error {
	_, err := io.WriteString(env.stdout, completions[c.Shell])
	return err
}

// completeLine prints how the line may continue, one word per line, if a shell asks for that. It
// reports whether one did.
func (env *environment) completeLine(model *kong.Node) bool {
	line, ok := env.lookupEnv(completionLine)
	if !ok || line == "" {
		return false
	}
	point := len(line)
	if text, ok := env.lookupEnv(completionPoint); ok {
		if _, err := fmt.Sscan(text, &point); err != nil || point < 0 || point > len(line) {
			point = len(line)
		}
	}
	line = line[:point]
	words := strings.Fields(line)
	if line != strings.TrimRight(line, " \t") || len(words) == 0 {
		words = append(words, "") // the next word has not been begun
	}
	for _, word := range (&completer{words: words, kinds: env.format.Kinds(), lookupEnv: env.lookupEnv}).offers(model) {
		fmt.Fprintln(env.stdout, word)
	}
	return true
}

// completer finds what the last of words may be.
type completer struct {
	words     []string
	kinds     []*sink.Kind
	lookupEnv func(string) (string, bool)
}

// offers follows the commands of the line and returns what begins like its last word: values if a
// flag waits for one, else flags, or commands and arguments.
func (c *completer) offers(node *kong.Node) []string {
	last := len(c.words) - 1
	flags, arguments := node.Flags, 0
	var waiting *kong.Flag
	for _, word := range c.words[min(1, last):last] {
		switch {
		case waiting != nil:
			waiting = nil
		case strings.HasPrefix(word, "-"):
			if f := flagOf(flags, word); f != nil && !f.IsBool() {
				waiting = f
			}
		default:
			at := slices.IndexFunc(node.Children, func(n *kong.Node) bool { return n.Name == word })
			if at < 0 {
				arguments++
				continue
			}
			node = node.Children[at]
			flags = append(slices.Clone(flags), node.Flags...)
		}
	}
	var all []string
	switch {
	case waiting != nil:
		all = c.values(waiting.Value)
	case strings.HasPrefix(c.words[last], "-"):
		for _, f := range flags {
			all = append(all, "--"+f.Name)
		}
	default:
		for _, n := range node.Children {
			all = append(all, n.Name)
		}
		if at := min(arguments, len(node.Positional)-1); at >= 0 && (arguments == at || node.Positional[at].IsCumulative()) {
			all = append(all, c.values(node.Positional[at])...)
		}
	}
	return slices.DeleteFunc(all, func(s string) bool { return !strings.HasPrefix(s, c.words[last]) })
}

// flagOf returns the flag that a word names and that takes its value from the next word.
func flagOf(flags []*kong.Flag, word string) *kong.Flag {
	for _, f := range flags {
		if word == "--"+f.Name || f.Short != 0 && word == "-"+string(f.Short) {
			return f
		}
	}
	return nil
}

// values returns the possible values of a flag or an argument, by its tag predictor or its enum.
func (c *completer) values(v *kong.Value) []string {
	switch v.Tag.Get("predictor") {
	case "lane":
		return slices.DeleteFunc(lanesOf(c.configTyped()), c.named)
	case "from":
		return append([]string{app.InFile, app.OnBus}, lanesOf(c.configTyped())...)
	case "event":
		return eventsTyped(c.words[len(c.words)-1])
	case "start":
		return []string{"earliest", "latest"}
	case "end":
		return []string{"latest"}
	case "topic":
		return topics()
	case "entity":
		var names []string
		for _, e := range state.Entities() {
			names = append(names, e.Name)
		}
		return names
	case "bus":
		return slices.Sorted(slices.Values(starterNames(starters(c.kinds))))
	}
	return v.EnumSlice()
}

// maxCompletionFile bounds how many bytes of a configuration are read while somebody types.
const maxCompletionFile = 1 << 20

// named reports whether the line has a word already, besides the one being typed.
func (c *completer) named(word string) bool { return slices.Contains(c.words[:len(c.words)-1], word) }

// configTyped returns the configuration file that the line names, else that of RELAY_CONFIG.
func (c *completer) configTyped() string {
	path := impliedConfig
	if named, _ := c.lookupEnv(variables["config"]); named != "" {
		path = named
	}
	words := c.words
	for i, word := range words {
		if value, ok := strings.CutPrefix(word, "--config="); ok {
			path = value
		} else if word == "--config" && i+1 < len(words) {
			path = words[i+1]
		}
	}
	return path
}

// lanesOf returns the names of the sinks in a configuration. The configuration need not be valid,
// and its variables may not be set in an interactive shell, so lanesOf reads only the names. If it
// cannot, it returns none.
func lanesOf(path string) []string {
	file, err := os.Open(path) //nolint:gosec // the person who types names it
	if err != nil {
		return nil
	}
	defer func() { _ = file.Close() }()
	text, err := io.ReadAll(io.LimitReader(file, maxCompletionFile))
	if err != nil {
		return nil
	}
	var names struct {
		Sinks []struct {
			Name string `yaml:"name"`
		} `yaml:"sinks"`
	}
	if yaml.Unmarshal(text, &names) != nil {
		return nil
	}
	var out []string
	for _, s := range names.Sinks {
		out = append(out, s.Name)
	}
	return out
}

// eventsTyped returns the event types, and the patterns over them, for the last word of a list with
// commas.
func eventsTyped(word string) []string {
	before := word[:strings.LastIndexByte(word, ',')+1]
	var out []string
	for _, t := range source.Catalogue() {
		out = append(out, before+t.Name)
		for at, c := range t.Name {
			if c == '.' {
				out = append(out, before+t.Name[:at]+".*")
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func topics() []string {
	var out []string
	for _, t := range manual.Topics() {
		out = append(out, t.Name)
	}
	return out
}
