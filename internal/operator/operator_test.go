package operator_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"workos-relay/internal/operator"
)

// undecided is an error that asks only if it has something to ask for.
type undecided struct {
	action string
	err    error
}

func (e *undecided) Error() string          { return "undecided" }
func (e *undecided) OperatorAction() string { return e.action }
func (e *undecided) Unwrap() error          { return e.err }

func TestWhatAnOperatorHasToDo(t *testing.T) {
	passing := errors.New("connection refused")
	lost, full := operator.New("lost", "find it"), operator.New("full", "empty it")
	for name, c := range map[string]struct {
		err  error
		want []string
	}{
		"nothing failed":              {nil, nil},
		"passing":                     {passing, nil},
		"joined, all passing":         {errors.Join(passing, fmt.Errorf("again: %w", passing)), nil},
		"itself":                      {lost, []string{"find it"}},
		"wrapped":                     {fmt.Errorf("loading: %w", lost), []string{"find it"}},
		"joined behind a passing one": {errors.Join(passing, fmt.Errorf("loading: %w", lost)), []string{"find it"}},
		"joined in a wrapped error":   {fmt.Errorf("lane: %w", errors.Join(passing, lost)), []string{"find it"}},
		"two by one text":             {fmt.Errorf("%w: %w", passing, lost), []string{"find it"}},
		"two actions in order":        {errors.Join(lost, passing, full), []string{"find it", "empty it"}},
		"one action twice":            {errors.Join(lost, fmt.Errorf("again: %w", lost)), []string{"find it"}},
		"required of a passing one":   {operator.Require(passing, "start it"), []string{"start it"}},
		"the outermost of a branch":   {operator.Require(fmt.Errorf("at: %w", lost), "find it in the attic"), []string{"find it in the attic"}},
		"one that does not ask":       {&undecided{err: passing}, nil},
		"asked below one that does not": {
			&undecided{err: errors.Join(passing, lost)}, []string{"find it"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, c.want, operator.Actions(c.err))
			require.Equal(t, c.want != nil, operator.Required(c.err))
		})
	}
	require.Equal(t, "find it; empty it", operator.Action(errors.Join(lost, full)))
	require.NotErrorIs(t, operator.New("lost", "find it"), lost, "a sentinel is itself only")
	require.ErrorIs(t, operator.Require(fmt.Errorf("at: %w", lost), "look"), lost)
	require.EqualError(t, operator.Require(lost, "look"), "lost; look")
	require.EqualError(t, operator.Require(errors.New("lost; look, or not"), "look"), "lost; look, or not")
	require.NoError(t, operator.Require(nil, "look"))
}

func TestExplainSaysAnActionOnce(t *testing.T) {
	require.Equal(t, "lost; find it", operator.Explain("lost", "find it"))
	require.Equal(t, "lost; find it, or not", operator.Explain("lost; find it, or not", "find it"))
	require.Equal(t, "lost", operator.Explain("lost", ""))
	require.Equal(t, "lost; find it; go on", operator.Explain("lost; find it", "find it", "go on"))
}

// both is an error that asks for an operator or only has advice.
type both struct {
	error
	action, advice string
}

func (e *both) OperatorAction() string { return e.action }
func (e *both) OperatorAdvice() string { return e.advice }

func TestAdviceDoesNotRequireAnOperator(t *testing.T) {
	passing, lost := errors.New("refused"), operator.New("lost", "find it")
	advised := operator.Advise(fmt.Errorf("connecting: %w", passing), "correct auth")
	require.EqualError(t, advised, "connecting: refused; correct auth")
	require.ErrorIs(t, advised, passing)
	require.False(t, operator.Required(advised), "it may pass")
	require.Equal(t, "correct auth", operator.Advice(fmt.Errorf("trying: %w", advised)))
	require.Equal(t, "correct auth; correct tls", operator.Advice(errors.Join(advised, advised, operator.Advise(passing, "correct tls"))))
	require.Equal(t, "find it", operator.Advice(errors.Join(advised, lost)), "what has to be done goes before")
	require.Equal(t, "find it", operator.Advice(lost))
	require.Equal(t, "wait", operator.Advice(&both{passing, "", "wait"}))
	require.Empty(t, operator.Advice(&both{error: passing}))
	require.Empty(t, operator.Advice(passing))
	require.Empty(t, operator.Advice(nil))
	require.NoError(t, operator.Advise(nil, "correct auth"))
	require.Equal(t, passing, operator.Advise(passing, ""))
	require.Equal(t, passing, operator.Require(passing, ""))
}
