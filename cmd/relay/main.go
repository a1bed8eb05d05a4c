// Command relay reads the WorkOS Events API and republishes every event on NATS JetStream or Kafka.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"syscall"

	"github.com/alecthomas/kong"
	"go.uber.org/zap"

	"workos-relay/conf/livefile"
	"workos-relay/internal/app"
	"workos-relay/internal/config"
	"workos-relay/internal/kinds"
	"workos-relay/internal/manual"
	"workos-relay/internal/moment"
	"workos-relay/internal/printable"
)

// cli is every command and flag. Kong reads it.
type cli struct {
	Config      string      `help:"Configuration file, also RELAY_CONFIG. Default: ./config.yaml if it exists, else the defaults and the environment." placeholder:"FILE"`
	LogLevel    string      `help:"One of ${enum}. Also RELAY_LOG_LEVEL and log.level. Default: info for relay run, warn for the other commands." enum:"debug,info,warn,error" default:"info" placeholder:"LEVEL"`
	LogFormat   string      `help:"One of ${enum}. auto, the default: console on a terminal, else json. Also RELAY_LOG_FORMAT and log.format." enum:"auto,console,json" default:"auto" placeholder:"FORMAT"`
	ShowVersion versionFlag `name:"version" help:"Print the version."`

	Init       initCmd       `cmd:"" help:"Write a configuration with comments for a bus, to a new file. Overwrites nothing."`
	Run        runCmd        `cmd:"" help:"Carry events from WorkOS to every sink, until stopped."`
	Demo       demoCmd       `cmd:"" help:"Show relay at work with a built-in Events API and an embedded NATS server. Needs nothing else."`
	Check      checkCmd      `cmd:"" help:"Find what would end or hold up relay run: configuration, directory, ports, API, sinks, positions. Say where a start would begin. Changes nothing. Exit 1 if there is a fault, 3 if an operator must say where to go on."`
	Status     statusCmd     `cmd:"" help:"Show each lane: state, who is active, position, lag, rate. Exit 1 if one is not healthy, 3 if one needs an operator."`
	Pause      pauseCmd      `cmd:"" help:"Pause lanes of a running relay. A paused lane keeps its lease. The pause does not survive a restart."`
	Resume     resumeCmd     `cmd:"" help:"Resume paused lanes of a running relay."`
	Poll       pollCmd       `cmd:"" help:"Poll WorkOS now, then a few more times over the next 20 s."`
	Snapshot   snapshotCmd   `cmd:"" help:"Let a lane of a running relay read what WorkOS has now and publish it to its state topics, before it carries further events."`
	Reload     reloadCmd     `cmd:"" help:"Reload the configuration of a running relay, as SIGHUP does. An invalid configuration is rejected; the running one stays in effect."`
	Replay     replayCmd     `cmd:"" help:"Publish a range of events again, each marked with the header relay-replay. Moves no checkpoint, and may run beside a running relay."`
	Verify     verifyCmd     `cmd:"" help:"Compare a range of events with what the bus holds, or with --state the state topics with WorkOS's lists. Exit 1 if anything is missing, duplicated, misrouted, altered, out of order or out of date."`
	Deadletter deadletterCmd `cmd:"" help:"List the events that could not be published, show one, or publish them again."`
	Get        getCmd        `cmd:"" help:"Print the newest version of an object from the state on the bus."`
	List       listCmd       `cmd:"" help:"List the objects of a kind from the state on the bus."`
	Tail       tailCmd       `cmd:"" help:"Print events as JSON lines, from WorkOS, or from the bus. Keeps no position."`
	Types      typesCmd      `cmd:"" help:"List the known event types with their topics."`
	Checkpoint checkpointCmd `cmd:"" help:"Show the position of a lane, or move it."`
	Version    versionCmd    `cmd:"" help:"Print the version."`
	Completion completionCmd `cmd:"" help:"Print the completion script of a shell: it completes commands, flags, lanes and event types."`
	Help       helpCmd       `cmd:"" help:"Print a page of the manual, or what it says about a message: relay help troubleshoot \"...\"."`
}

const description = `relay carries every WorkOS event to your own message bus, in order, and moves its checkpoint only after the bus has acknowledged.

With WORKOS_API_KEY set, "relay run" needs no configuration: it stores into an embedded NATS JetStream server on 127.0.0.1:4222, with the dead-letter topic relay.dead_letter.

Exit codes: 0 done, 1 failed, 2 usage or configuration, 3 operator action required.`

// environment is the outside world of a command. Tests replace it.
type environment struct {
	cli       *cli
	stdout    io.Writer // escapes what could control a terminal; beneath goes around it
	stderr    io.Writer // likewise
	lookupEnv func(string) (string, bool)
	log       *zap.Logger
	logging   logging
	unread    <-chan struct{} // closed once nobody reads stdout any more
	format    *config.Format  // of the configuration, with the kinds of bus that relay knows
	files     *livefile.Set   // the files with secrets, certificates and keys, which may change while relay runs
}

func main() {
	signal.Ignore(syscall.SIGPIPE) // a closed pipe is an error of that output, and must not end every lane
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	os.Exit(execute(ctx, os.Args[1:], os.LookupEnv, os.Stdout, os.Stderr))
}

// format is the format of the configuration file.
var format = config.For(kinds.All)

// execute runs one command line and returns its exit code.
func execute(ctx context.Context, args []string, lookupEnv func(string) (string, bool), out, errs io.Writer) int {
	return executeWith(ctx, format, args, lookupEnv, out, errs)
}

// executeWith is execute for a relay whose configuration has this format.
func executeWith(ctx context.Context, format *config.Format, args []string, lookupEnv func(string) (string, bool), out, errs io.Writer) int {
	output := newPipe(out)
	stdout, stderr := printable.NewWriter(output), printable.NewWriter(errs)
	var c cli
	exited := -1
	parser, err := kong.New(&c, kong.Name("relay"), kong.Description(description), kong.Writers(stdout, stderr),
		kong.Exit(func(code int) { exited = code }), kong.ConfigureHelp(kong.HelpOptions{Compact: true}), kong.Help(printHelp), fromEnvironment(lookupEnv),
		kong.Vars{"time": moment.Forms}, durations)
	if err != nil {
		panic(err) // the declaration above is wrong
	}
	env := &environment{cli: &c, stdout: stdout, stderr: stderr, lookupEnv: lookupEnv, format: format, unread: output.gone}
	if env.completeLine(parser.Model.Node) {
		return exitDone
	}
	if len(args) == 0 {
		args = []string{"--help"}
	}
	parsed, err := parser.Parse(withoutMinus(args))
	if exited >= 0 { // help was printed
		return exited
	}
	if err != nil {
		env.tellMistake(err)
		return exitUsage
	}
	if err := env.startLog(chosenLog(parsed), isService(parsed.Selected()), config.Log{}); err != nil {
		fmt.Fprintf(stderr, "relay: %s\n", manual.MarkLines(err.Error()))
		return exitUsage
	}
	env.files = livefile.NewSet(env.log)
	parsed.BindTo(ctx, (*context.Context)(nil))
	if err := parsed.Run(env); err != nil {
		env.tellEnd(err)
		return exitCode(err)
	}
	return exitDone
}

// whileRead returns a context that ends with ctx, and once nobody reads standard output any more.
func (env *environment) whileRead(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	go func() { // ends with ctx, which the caller cancels
		select {
		case <-env.unread:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

// timed are the flags that take a duration rather than a time.
var timed = []string{"--timeout", "--interval", "--for"}

// withoutMinus returns args with times such as -90m written as 90m, which means the same and is not
// taken for flags.
func withoutMinus(args []string) []string {
	out := slices.Clone(args)
	for i, arg := range out {
		if arg == "--" {
			break
		}
		if moment.IsAgo(arg) && (i == 0 || !slices.Contains(timed, out[i-1])) {
			out[i] = arg[1:]
		}
	}
	return out
}

// variables are the flags that variables of the environment set, too.
var variables = map[string]string{"config": "RELAY_CONFIG", "log-level": "RELAY_LOG_LEVEL", "log-format": "RELAY_LOG_FORMAT"}

// fromEnvironment lets variables set flags that the command line does not. An empty one sets
// nothing.
func fromEnvironment(lookupEnv func(string) (string, bool)) kong.Option {
	return kong.Resolvers(kong.ResolverFunc(func(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
		name, named := variables[flag.Name]
		if !named {
			return nil, nil //nolint:nilnil // no variable sets it
		}
		if value, set := lookupEnv(name); set && value != "" {
			return value, nil
		}
		return nil, nil //nolint:nilnil // the variable is not set
	}))
}

// impliedConfig is the configuration file of a command if --config names none and this one exists.
const impliedConfig = "config.yaml"

// withoutFile is the configuration if there is no file: the defaults, and a dead-letter topic, so
// that one event does not stop a relay that nobody has configured yet.
const withoutFile = "dead_letter: {topic: relay.dead_letter}\n"

// loadConfig reads the file of --config, or ./config.yaml if that exists, else the defaults.
func (env *environment) loadConfig() (*config.Config, error) {
	return env.loadConfigWith(env.lookupEnv)
}

func (env *environment) loadConfigWith(lookupEnv func(string) (string, bool)) (*config.Config, error) {
	path := env.cli.Config
	if path == "" {
		if _, err := os.Stat(impliedConfig); err == nil {
			path = impliedConfig
		} else if !errors.Is(err, os.ErrNotExist) {
			return nil, app.Usage(fmt.Errorf("looking for %s: %w", impliedConfig, err))
		}
	}
	if path == "" {
		cfg, err := env.format.Parse("", []byte(withoutFile), lookupEnv)
		if err != nil {
			return nil, app.Usage(err)
		}
		cfg.Files = env.files
		return cfg, nil
	}
	cfg, err := env.format.Load(path, lookupEnv)
	if err != nil {
		return nil, app.Usage(err)
	}
	cfg.Files = env.files
	return cfg, nil
}

// keyOptional is an environment in which WORKOS_API_KEY is always set, for commands that never ask
// WorkOS.
func (env *environment) keyOptional(name string) (string, bool) {
	if v, ok := env.lookupEnv(name); ok || name != "WORKOS_API_KEY" {
		return v, ok
	}
	return "sk_not_needed_here", true
}
