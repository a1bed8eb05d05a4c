package router

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"

	"workos-relay/sink"
	"workos-relay/source"
)

// Bounds of a Route.Where.
const (
	maxWhere      = 4096 // characters
	maxWhereDepth = 50   // of calls and parentheses
	// maxWhereCost bounds the work for one event, in the units of CEL: about one for each operator,
	// and one for each ten bytes that a string function reads. It takes some milliseconds.
	maxWhereCost = 100_000
)

// The variables of a Route.Where.
const (
	varEvent        = "event"
	varType         = "type"
	varData         = "data"
	varOrganization = "organization_id"
)

// Why an expression could not be evaluated for an event. The texts hold nothing of the event.
var (
	errWhereField = errors.New("it reads a field that the event does not have; ask with has(data.field) first")
	errWhereType  = errors.New("a value of the event has another type than the expression needs")
	errWhereCost  = errors.New("it takes too long for this event; read fewer values, or shorter ones")
	errWhereJSON  = errors.New("the event is not well-formed JSON")
	errWhereOther = errors.New("its evaluation failed")
)

// condition is a compiled Route.Where. It is safe for concurrent use.
type condition struct{ program cel.Program }

// environment is made when the first route has an expression, because it takes memory.
var environment = sync.OnceValues(func() (*cel.Env, error) {
	object := cel.MapType(cel.StringType, cel.DynType)
	return cel.NewEnv(
		cel.Variable(varEvent, object), cel.Variable(varType, cel.StringType),
		cel.Variable(varData, object), cel.Variable(varOrganization, cel.StringType),
		cel.CrossTypeNumericComparisons(true), // a number in JSON may be an integer or not
		cel.ParserExpressionSizeLimit(maxWhere), cel.ParserRecursionLimit(maxWhereDepth),
		cel.ASTValidators(cel.ValidateRegexLiterals()),
	)
})

// compileWhere compiles an expression. The error completes "routes[0].where ".
func compileWhere(text string) (cel.Program, error) {
	env, err := environment()
	if err != nil {
		return nil, err
	}
	if len(text) > maxWhere {
		return nil, fmt.Errorf("is longer than %d bytes", maxWhere)
	}
	ast, issues := env.Compile(text)
	if found := issues.Errors(); len(found) > 0 {
		first := found[0]
		what, _, _ := strings.Cut(first.Message, " (in container")
		return nil, fmt.Errorf("is not a valid expression: line %d, column %d: %s; its variables are %s, %s, %s and %s",
			max(first.Location.Line(), 1), max(first.Location.Column(), 0)+1, strings.TrimSpace(what), varType, varOrganization, varData, varEvent)
	}
	if ast.OutputType() != cel.BoolType {
		return nil, fmt.Errorf("must give true or false, and gives %s; compare the value, as in data.state == \"active\"", ast.OutputType())
	}
	program, err := env.Program(ast, cel.CostLimit(maxWhereCost), cel.EvalOptions(cel.OptOptimize))
	if err != nil { // a part without variables was evaluated
		return nil, fmt.Errorf("is not a valid expression: %w", err)
	}
	return program, nil
}

// subjectOfWhere is what the expressions of an event's routes read. Its event is parsed once, if an
// expression needs it.
type subjectOfWhere struct {
	event  *source.Event
	parsed map[string]any
	err    error
}

// ResolveName implements cel.Activation.
func (s *subjectOfWhere) ResolveName(name string) (any, bool) {
	switch name {
	case varType:
		return s.event.Event, true
	case varOrganization:
		return Organization(s.event), true
	}
	if s.parsed == nil && s.err == nil {
		s.err = json.Unmarshal(s.event.Raw, &s.parsed)
	}
	if s.err != nil {
		return nil, false
	}
	if name == varEvent {
		return s.parsed, true
	}
	v, ok := s.parsed[name]
	return v, ok && name == varData
}

// Parent implements cel.Activation.
func (*subjectOfWhere) Parent() cel.Activation { return nil }

// holds reports whether the expression is true. The error is one of those above: the expression
// cannot be evaluated for this event.
func (c *condition) holds(s *subjectOfWhere) (bool, error) {
	result, _, err := c.program.Eval(s)
	if err == nil {
		if b, ok := result.(types.Bool); ok {
			return bool(b), nil
		}
		return false, errWhereType
	}
	switch text := err.Error(); {
	case s.err != nil:
		return false, errWhereJSON
	case strings.Contains(text, "cost limit"):
		return false, errWhereCost
	case strings.HasPrefix(text, "no such key"), strings.HasPrefix(text, "no such attribute"):
		return false, errWhereField
	case strings.HasPrefix(text, "no such overload"), strings.HasPrefix(text, "unsupported"):
		return false, errWhereType
	default:
		return false, errWhereOther
	}
}

// whereFailed is a Config.WhereFailed.
type whereFailed = func(route int, e *source.Event, err error)

func tellNobody(int, *source.Event, error) {}

// choose returns the first decision, of d and those after it, whose condition holds for e. An
// expression that cannot be evaluated counts as false, unless its route takes something out: then e
// must not go to the routes after it as it is, and choose returns a *sink.RejectedError. failed is
// told of the expressions that count as false.
func (r *Router) choose(d decision, e *source.Event, failed whereFailed) (decision, error) {
	s := subjectOfWhere{event: e}
	for d.when != nil {
		holds, err := d.when.holds(&s)
		if err != nil {
			if d.redact != nil { // P11: an event that may have to be redacted is not published as it is.
				return d, &sink.RejectedError{Topic: d.topic, Reason: fmt.Sprintf("routes[%d].where cannot be evaluated for the event: %v; "+
					"the route redacts, so the event does not go to the next one", d.route, err)}
			}
			failed(d.route, e, err)
		}
		if holds {
			return d, nil
		}
		d = *d.next
	}
	return d, nil
}
