package catalogue

import "encoding/json"

// object is a JSON object.
type object = map[string]any

// Data returns the JSON Schema of the type's payload, the field data of an event. It is nil for a
// type that is gone.
func (t *Type) Data() map[string]any {
	if t.Schema == nil {
		return nil
	}
	var out map[string]any
	if err := json.Unmarshal(t.Schema.text, &out); err != nil {
		panic(err) // it was read from the same bytes
	}
	typed(out)
	return out
}

// typed adds the type to constants and enumerations of strings, since code generators make nothing
// of them without.
func typed(schema object) {
	if value, ok := schema["const"].(string); ok && value != "" && schema["type"] == nil {
		schema["type"] = "string"
	}
	if values, ok := schema["enum"].([]any); ok && schema["type"] == nil {
		if _, text := values[0].(string); text {
			schema["type"] = "string"
		}
	}
	for _, inner := range schema {
		switch v := inner.(type) {
		case object:
			typed(v)
		case []any:
			for _, form := range v {
				if f, ok := form.(object); ok {
					typed(f)
				}
			}
		}
	}
}

// Context returns the JSON Schema of the field context of an event, which tells who or what caused
// it. It holds personal data.
func Context() map[string]any {
	text := func() object { return object{"type": []string{"string", "null"}} }
	return object{
		"type":        "object",
		"description": "Who or what caused the event. It can hold personal data.",
		"properties": object{
			"actor": object{
				"type": []string{"object", "null"},
				"properties": object{
					"id": object{"type": "string"}, "name": text(),
					"source": object{"type": "string", "enum": []string{"admin_portal", "api", "dashboard", "system"}},
				},
			},
			"client_id":                  text(),
			"ajs_anonymous_id":           text(),
			"google_analytics_client_id": text(),
			"google_analytics_sessions":  object{"type": []string{"array", "null"}, "items": object{"type": "object"}},
			"previous_attributes":        object{"type": []string{"object", "null"}},
		},
	}
}

// EventSchema returns the JSON Schema of a whole event of the type, as WorkOS sends it. It is nil
// for a type that is gone.
func (t *Type) EventSchema() map[string]any {
	if t.Schema == nil {
		return nil
	}
	return object{
		"$schema": "https://json-schema.org/draft/2020-12/schema",
		"title":   t.Name,
		"type":    "object",
		"properties": object{
			"object":     object{"type": "string", "const": "event"},
			"id":         object{"type": "string"},
			"event":      object{"type": "string", "const": t.Name},
			"data":       t.Data(),
			"created_at": object{"type": "string", "format": "date-time"},
			"context":    Context(),
		},
		"required": []string{"object", "id", "event", "data", "created_at"},
	}
}
