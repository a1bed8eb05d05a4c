// Package manual is the pages of docs, for a terminal: whole pages by topic, and what
// docs/troubleshoot.md says of a message.
package manual

import (
	"path"
	"regexp"
	"strings"

	"workos-relay/docs"
)

// Topic is one page.
type Topic struct {
	Name  string // of the file, without .md
	Title string
}

// Topics are the pages, sorted by name. The index, README.md, is none.
func Topics() []Topic {
	files, err := docs.Pages.ReadDir(".")
	if err != nil {
		panic(err) // they are embedded
	}
	var topics []Topic
	for _, f := range files {
		name := strings.TrimSuffix(f.Name(), path.Ext(f.Name()))
		if text, ok := Page(name); ok && name != "README" {
			title, _, _ := strings.Cut(text, "\n")
			topics = append(topics, Topic{Name: name, Title: strings.TrimPrefix(title, "# ")})
		}
	}
	return topics
}

// Page returns the Markdown of a topic.
func Page(name string) (string, bool) {
	text, err := docs.Pages.ReadFile(name + ".md")
	return string(text), err == nil
}

var (
	comment = regexp.MustCompile(`(?s)<!--.*?-->\n*`)
	link    = regexp.MustCompile(`\[([^\]]+)\]\(([^)]+)\)`)
	escape  = regexp.MustCompile(`\\([|*_<>])`)
)

// Plain makes Markdown readable in a terminal: fences become indentation, links their
// text, or their page if that says more, tables columns.
func Plain(markdown string) string {
	var out strings.Builder
	fenced := false
	var table [][]string
	flush := func() {
		writeTable(&out, table)
		table = nil
	}
	for line := range strings.Lines(comment.ReplaceAllString(markdown, "")) {
		line = strings.TrimRight(line, "\n")
		switch {
		case strings.HasPrefix(strings.TrimSpace(line), "```"):
			fenced = !fenced
			continue
		case fenced:
			out.WriteString("    " + line + "\n")
			continue
		case strings.HasPrefix(line, "|"):
			if strings.Trim(line, "|-: ") != "" {
				table = append(table, cells(line))
			}
			continue
		}
		flush()
		line = escape.ReplaceAllString(link.ReplaceAllStringFunc(line, linked), "$1")
		line = strings.ReplaceAll(line, "**", "")
		out.WriteString(line + "\n")
	}
	flush()
	return out.String()
}

// linked names the page for a link to another one, for the reader has it as a topic.
func linked(s string) string {
	m := link.FindStringSubmatch(s)
	page, _, _ := strings.Cut(m[2], "#")
	if name, isPage := strings.CutSuffix(page, ".md"); isPage && !strings.Contains(name, "/") && m[1] == page {
		return "`relay help " + name + "`"
	}
	return m[1]
}

// cells takes a row of a table apart; a bar behind a backslash is a part of its cell.
func cells(line string) []string {
	const bar = "\x00"
	line = strings.Trim(strings.ReplaceAll(line, `\|`, bar), "| ")
	parts := strings.Split(line, "|")
	for i, p := range parts {
		p = strings.ReplaceAll(strings.TrimSpace(p), bar, "|")
		parts[i] = strings.ReplaceAll(escape.ReplaceAllString(link.ReplaceAllStringFunc(p, linked), "$1"), "**", "")
	}
	return parts
}

// writeTable writes each row below its first cell, the others named by the head: columns of whole
// sentences fit no terminal.
func writeTable(out *strings.Builder, rows [][]string) {
	if len(rows) < 2 {
		return
	}
	head := rows[0]
	for _, row := range rows[1:] {
		out.WriteString("- " + row[0] + "\n")
		for i, cell := range row[1:] {
			if cell == "" {
				continue
			}
			name := ""
			if i+1 < len(head) && head[i+1] != "" && len(head) > 2 {
				name = head[i+1] + ": "
			}
			out.WriteString("    " + name + cell + "\n")
		}
	}
}
