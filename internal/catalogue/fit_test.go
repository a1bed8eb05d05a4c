package catalogue

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestMismatch(t *testing.T) {
	t.Parallel()
	const key = `"object":"api_key","id":"k","name":"n","obfuscated_value":"o","last_used_at":null,"expires_at":null,"permissions":["a"],` +
		`"created_at":"2026-01-01T00:00:00Z","updated_at":"2026-01-01T00:00:00Z"`
	for data, want := range map[string]string{
		`{` + key + `,"owner":{"type":"organization","id":"org_1"}}`:                                        "",
		`{` + key + `,"owner":{"type":"user","id":"user_1","organization_id":"org_1"},"new":{"field":[1]}}`: "",
		`{` + key + `,"owner":{"type":"team","id":"team_1"}}`:                                               "data.owner.type has a value that is not listed",
		`{` + key + `,"owner":{"type":"user","id":"user_1"}}`:                                               "data.owner.organization_id is missing",
		`{` + key + `,"owner":"org_1"}`:                                                                     "data.owner is a string",
		`{` + key + `}`:                                                                                     "data.owner is missing",
		`{"object":"api_key","id":null}`:                                                                    "data.id is null",
		`{"permissions":["a",7]}`:                                                                           "data.permissions.1 is a number",
		`[]`:                                                                                                "data is a list",
		`null`:                                                                                              "data is null",
		`{"last_used_at":7}`:                                                                                "data.last_used_at is a number",
		`{"name":{"x":1}}`:                                                                                  "data.name is an object",
	} {
		require.Equal(t, want, Mismatch("api_key.created", data), data)
	}
	require.Empty(t, Mismatch("organization_membership.added", `7`), "it has no schema")
	require.Empty(t, Mismatch("future.created", `7`), "it is not known")
	require.Equal(t, "data.state has a value that is not listed", Mismatch("invitation.created", `{"state":"lost"}`))
}

// TestWhatFitsCostsNoMemory holds for every event, since a backlog compares many.
func TestWhatFitsCostsNoMemory(t *testing.T) {
	require.Zero(t, testing.AllocsPerRun(100, func() { _ = Mismatch("dsync.user.created", fitting) }))
}

const fitting = `{"object":"directory_user","id":"directory_user_01JH4GZTP4E6YTXQCGWCP78KZB","directory_id":"directory_01JWSX49W05QTM3TDP0R6TTJBR","organization_id":"org_01JNV14Y7Y6EAT0VX04T6PAJK6","idp_id":"73747937132151485248","email":null,"state":"active","custom_attributes":{"department":"Legal","employee_number":8774856903369313632,"cost_center":"CC-86811","fte":1.0E+0},"created_at":"2026-01-01T00:00:47.485Z","updated_at":"2026-01-01T00:00:47.485Z","last_name":"Vancura","emails":[{"primary":true,"type":"work","value":"omar.vancura11@ambar.example.com"}],"job_title":"Ingénieure","username":"omar"}`

func BenchmarkMismatch(b *testing.B) {
	require.Empty(b, Mismatch("dsync.user.created", fitting))
	b.SetBytes(int64(len(fitting)))
	for b.Loop() {
		_ = Mismatch("dsync.user.created", fitting)
	}
}
