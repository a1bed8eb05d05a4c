// Package browsertest drives a real Chromium without a window, for tests of what relay shows to a
// browser. Such a test is skipped where RELAY_TEST_CHROMIUM does not name the program.
package browsertest

import (
	"context"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"
)

// patient is how long a step may take. Passing does not depend on how soon it is done.
const patient = 3 * time.Minute

// Tab is one tab in a separate browser. It is used by one goroutine.
type Tab struct {
	t   testing.TB
	ctx context.Context

	mu         sync.Mutex
	complaints []string

	marks int
	heard chan string // the marks that the console has brought, see Complaints
}

// Open starts a browser with one empty tab. Both end with the test, which fails where the browser's
// console had an error or a warning that the test has not taken by Complaints.
func Open(t testing.TB) *Tab {
	t.Helper()
	program := os.Getenv("RELAY_TEST_CHROMIUM")
	if program == "" {
		t.Skip("RELAY_TEST_CHROMIUM names no Chromium, such as /usr/bin/chromium")
	}
	options := append(slices.Clone(chromedp.DefaultExecAllocatorOptions[:]),
		chromedp.ExecPath(program), chromedp.NoSandbox, chromedp.DisableGPU,
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true), chromedp.WSURLReadTimeout(patient))
	allocator, stop := chromedp.NewExecAllocator(context.Background(), options...)
	ctx, closeTab := chromedp.NewContext(allocator)
	tab := &Tab{t: t, ctx: ctx, heard: make(chan string, 1)}
	// The first action starts the browser, which ends with the context that it is given.
	console := chromedp.Console(ctx)
	err := chromedp.Do(ctx, chromedp.Navigate("about:blank"))
	var hearing sync.WaitGroup
	hearing.Go(func() { tab.hear(console) })
	t.Cleanup(func() {
		defer hearing.Wait()
		defer stop()
		defer closeTab()
		if err == nil {
			require.Empty(t, tab.Complaints(), "the browser's console")
		}
	})
	require.NoError(t, err)
	call(tab, emulation.SetFocusEmulationEnabled, emulation.SetFocusEmulationEnabledParams{Enabled: true}) // a tab without a window has no focus
	return tab
}

// hear keeps what the console complains about, until the tab is closed.
func (tab *Tab) hear(console iter.Seq2[chromedp.ConsoleMessage, error]) {
	for m, err := range console {
		if err != nil {
			return
		}
		if strings.HasPrefix(m.Text, mark) {
			select {
			case tab.heard <- m.Text:
			case <-tab.ctx.Done():
			}
			continue
		}
		if m.Type == chromedp.ConsoleError || m.Type == chromedp.ConsoleWarning || m.IsException() {
			tab.mu.Lock()
			tab.complaints = append(tab.complaints, m.String()+" "+m.URL)
			tab.mu.Unlock()
		}
	}
}

// mark begins what Complaints writes to the console itself.
const mark = "browsertest: mark "

// Complaints returns the errors and warnings of the console since the last call. They come in their
// order, so that it writes a mark and waits for it: then everything from before is there.
func (tab *Tab) Complaints() []string {
	tab.t.Helper()
	tab.marks++
	text := fmt.Sprint(mark, tab.marks)
	Eval[bool](tab, fmt.Sprintf("console.debug(%q) || true", text))
	ctx, cancel := tab.within()
	defer cancel()
	select {
	case got := <-tab.heard:
		require.Equal(tab.t, text, got)
	case <-ctx.Done():
		require.Fail(tab.t, "the console brings nothing")
	}
	tab.mu.Lock()
	defer tab.mu.Unlock()
	out := tab.complaints
	tab.complaints = nil
	return out
}

// within returns the tab's context with a bound.
func (tab *Tab) within() (context.Context, context.CancelFunc) {
	return context.WithTimeout(tab.ctx, patient)
}

// Go opens an address.
func (tab *Tab) Go(url string) {
	tab.t.Helper()
	tab.do(chromedp.Navigate(url))
}

// Press presses keys, those of chromedp's package kb among them.
func (tab *Tab) Press(keys string) {
	tab.t.Helper()
	tab.do(chromedp.KeyEvent(keys))
}

// Size makes the tab as large as a screen of so many pixels.
func (tab *Tab) Size(width, height int64, mobile bool) {
	tab.t.Helper()
	call(tab, emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{Width: width, Height: height, DeviceScaleFactor: 1, Mobile: mobile})
}

// Prefer makes the tab prefer a colour scheme: dark or light.
func (tab *Tab) Prefer(scheme string) {
	tab.t.Helper()
	call(tab, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
		Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}},
	})
}

// Scripts lets pages that are loaded from now on run scripts, or not.
func (tab *Tab) Scripts(on bool) {
	tab.t.Helper()
	call(tab, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: !on})
}

func (tab *Tab) do(a chromedp.Action[chromedp.Void]) {
	tab.t.Helper()
	ctx, cancel := tab.within()
	defer cancel()
	require.NoError(tab.t, chromedp.Do(ctx, a))
}

func call[P, R any](tab *Tab, command cdp.Command[P, R], params P) {
	tab.t.Helper()
	ctx, cancel := tab.within()
	defer cancel()
	_, err := chromedp.Call(ctx, command, params)
	require.NoError(tab.t, err)
}

// Eval returns what an expression of JavaScript comes to.
func Eval[T any](tab *Tab, expression string) T {
	tab.t.Helper()
	ctx, cancel := tab.within()
	defer cancel()
	out, err := chromedp.Run(ctx, chromedp.Evaluate[T](expression))
	require.NoError(tab.t, err, expression)
	return out
}

// Text is what can be read in the first element that the selector finds; empty if there is none.
func (tab *Tab) Text(selector string) string {
	tab.t.Helper()
	return Eval[string](tab, fmt.Sprintf("document.querySelector(%q)?.innerText ?? ''", selector))
}

// Until waits for an expression of JavaScript to become true. It cannot be evaluated while a page
// is loaded; that is waited for, too.
func (tab *Tab) Until(expression string) {
	tab.t.Helper()
	ctx, cancel := tab.within()
	defer cancel()
	for {
		is, err := chromedp.Run(ctx, chromedp.Evaluate[bool]("!!("+expression+")"))
		if is {
			return
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			tab.mu.Lock()
			defer tab.mu.Unlock()
			require.Fail(tab.t, "it did not become true: "+expression, "last error: %v\n%s", err, tab.complaints)
		}
	}
}

// Violations returns what axe-core, the program that RELAY_TEST_AXE names, finds against the page
// as it is: a line for each element. Without RELAY_TEST_AXE it finds nothing.
func (tab *Tab) Violations() []string {
	tab.t.Helper()
	program := os.Getenv("RELAY_TEST_AXE")
	if program == "" {
		return nil
	}
	if !Eval[bool](tab, "'axe' in window") {
		source, err := os.ReadFile(program) //nolint:gosec // the environment of the tests names it
		require.NoError(tab.t, err)
		Eval[bool](tab, string(source)+"\n;true")
	}
	Eval[bool](tab, `window.violations = undefined,
		axe.run(document, { resultTypes: ["violations"] }).then(
			(found) => { window.violations = found.violations.flatMap((v) => v.nodes.map((n) => v.id + ": " + n.target + ": " + n.failureSummary)); },
			(err) => { window.violations = ["axe-core: " + err]; }), true`)
	tab.Until("window.violations")
	return Eval[[]string](tab, "window.violations")
}

// Picture writes what the whole page looks like to a PNG file in folder.
func (tab *Tab) Picture(folder, name string) {
	tab.t.Helper()
	ctx, cancel := tab.within()
	defer cancel()
	png, err := chromedp.Run(ctx, chromedp.FullScreenshot(100))
	require.NoError(tab.t, err)
	require.NotEmpty(tab.t, png)
	require.NoError(tab.t, os.WriteFile(filepath.Join(folder, name+".png"), png, 0o600))
}
