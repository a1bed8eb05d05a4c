package licenses

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

const root = "../.."

// TestTheListIsCurrent fails, too, if a module stands under a licence that is not permitted.
func TestTheListIsCurrent(t *testing.T) {
	modules, err := Collect(t.Context(), root, "./cmd/relay")
	require.NoError(t, err)
	listed, err := os.ReadFile(filepath.Join(root, "docs", "licenses.md"))
	require.NoError(t, err)
	require.Equal(t, string(Table(modules)), string(listed), "out of date: go generate ./internal/licenses")
	texts := string(Texts(modules))
	for _, m := range modules {
		require.NotEmpty(t, m.IDs, m.Path)
		if m.Path != "std" {
			require.Contains(t, texts, "\n"+m.Path+": ")
		}
	}
	require.Contains(t, texts, "The Go Authors")
}

// affero is the notice that the licence asks authors to put at the head of their files.
const affero = `This program is free software: you can redistribute it and/or modify it under the terms of the GNU Affero General Public
License as published by the Free Software Foundation, either version 3 of the License, or (at your option) any later version. This
program is distributed in the hope that it will be useful, but WITHOUT ANY WARRANTY; without even the implied warranty of
MERCHANTABILITY or FITNESS FOR A PARTICULAR PURPOSE. See the GNU Affero General Public License for more details.`

func TestWhatLicencesAreRefused(t *testing.T) {
	apache, err := os.ReadFile(filepath.Join(root, "LICENSE"))
	require.NoError(t, err)
	for name, c := range map[string]struct {
		files map[string]string
		ids   []string
		err   string
	}{
		"permitted":       {map[string]string{"LICENSE": string(apache), "NOTICE": "Copyright 2026 Somebody"}, []string{"Apache-2.0"}, ""},
		"one of the rest": {map[string]string{"LICENSE": string(apache), "sub/LICENSE": affero}, nil, "AGPL-3.0"},
		"made up":         {map[string]string{"LICENSE.md": "You may look at this, and no more."}, nil, "somebody has to read it"},
		"none":            {map[string]string{"NOTICE.txt": "Copyright 2026 Somebody", "license.go": "package license"}, nil, "has no licence file"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			found := map[string]bool{}
			require.NoError(t, os.Mkdir(filepath.Join(dir, "sub"), 0o755))
			for file, text := range c.files {
				require.NoError(t, os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644))
			}
			require.NoError(t, findTexts(filepath.Join(dir, "sub"), dir, found))
			m, err := read("example.com/m", dir, found)
			if c.err != "" {
				require.ErrorContains(t, err, c.err)
				return
			}
			require.NoError(t, err)
			require.Equal(t, c.ids, m.IDs)
			require.Len(t, m.Texts, len(c.files))
		})
	}
}
