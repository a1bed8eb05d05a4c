package config

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"

	"go.yaml.in/yaml/v4"

	"workos-relay/conf/secret"
)

// Schema is docs/config.schema.json: a JSON Schema (draft 2020-12) by which editors complete and
// check a configuration. It lets every value be a ${NAME} in quotes, and leaves to relay what a
// schema cannot say.
func (f *Format) Schema() []byte {
	s := schemaObject(f.root())
	s["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	s["title"] = "Configuration of relay"
	s["type"] = []string{"object", "null"}
	s["$defs"] = map[string]any{
		"variable": map[string]any{
			"type": "string", "pattern": `\$\{[A-Za-z_][A-Za-z0-9_]*(:-[^}]*)?\}`,
			"description": "A variable of the environment: ${NAME} or ${NAME:-default}.",
		},
	}
	text, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		panic(fmt.Sprintf("config: the schema cannot be written: %v", err))
	}
	return append(text, '\n')
}

func schemaObject(o *object) map[string]any {
	s := schemaFields(o.fields)
	if len(o.variants) == 0 {
		s["additionalProperties"] = false
		return s
	}
	var choices []any
	for _, v := range o.variants {
		choices = append(choices, map[string]any{
			"if": map[string]any{
				"properties": map[string]any{typeKey: map[string]any{"const": v.name}},
				"required":   []string{typeKey},
			},
			"then": schemaVariant(o, v),
		})
	}
	s["allOf"] = append(choices, asList(s["allOf"])...)
	return s
}

// schemaVariant is the whole section as it is with one variant, since additionalProperties knows
// only its own schema's keys.
func schemaVariant(o *object, v *variant) map[string]any {
	s := schemaFields(v.object.fields)
	properties := s["properties"].(map[string]any) //nolint:forcetypeassert // schemaFields makes it
	for _, f := range o.fields {
		properties[f.name] = true // checked by the schema around this one
	}
	s["additionalProperties"] = false
	return s
}

func asList(v any) []any {
	list, _ := v.([]any)
	return list
}

func schemaFields(fields []*field) map[string]any {
	properties := make(map[string]any, len(fields))
	var required []string
	var exclusive []any
	for _, f := range fields {
		properties[f.name] = schemaField(f)
		if f.required && f.def == nil {
			required = append(required, f.name)
		}
		if f.isSecret() {
			exclusive = append(exclusive, map[string]any{
				"not": map[string]any{"type": "object", "required": []string{f.name, fileKey(f.name)}},
			})
		}
	}
	s := map[string]any{"type": "object", "properties": properties}
	if len(required) > 0 {
		s["required"] = required
	}
	if len(exclusive) > 0 {
		s["allOf"] = exclusive
	}
	return s
}

func schemaField(f *field) map[string]any {
	s := schemaKind(f)
	if text := f.doc + f.limits(); text != "" {
		s["description"] = strings.TrimSpace(text)
	}
	if f.def != nil && !f.isSecret() {
		var value any
		if err := yaml.Load([]byte(f.defText), &value); err == nil && value != nil {
			s["default"] = value
		}
	}
	return s
}

func schemaKind(f *field) map[string]any {
	switch f.kind {
	case kindSection:
		s := schemaObject(f.object)
		if !f.optional {
			s["type"] = []string{"object", "null"}
		}
		return s
	case kindSections:
		s := map[string]any{"type": []string{"array", "null"}, "items": schemaObject(f.object)}
		if f.def != nil {
			s["minItems"] = 1
		}
		return s
	case kindSecrets:
		return schemaOneOrMany()
	case kindTexts:
		return map[string]any{"type": []string{"array", "null"}, "items": schemaText(f)}
	case kindMap:
		return map[string]any{"type": []string{"object", "null"}, "additionalProperties": map[string]any{"type": scalarTypes}}
	case kindBool:
		return orVariable(map[string]any{"type": "boolean"})
	case kindInt:
		return orVariable(f.schemaBounds(map[string]any{"type": "integer"}))
	case kindFloat:
		return orVariable(f.schemaBounds(map[string]any{"type": "number"}))
	case kindDuration:
		return orVariable(map[string]any{"type": "string", "pattern": `^([0-9]+(\.[0-9]*)?(ns|us|µs|ms|s|m|h))+$`}, map[string]any{"const": 0})
	case kindBytes:
		return orVariable(map[string]any{"type": "string", "pattern": `^[0-9]+(\.[0-9]+)? ?([KMGT]iB|[kKMGT]?B)?$`}, map[string]any{"type": "integer", "minimum": 0})
	default:
		return schemaText(f)
	}
}

// scalarTypes are what YAML may take an unquoted text for.
var scalarTypes = []string{"string", "number", "boolean"}

// schemaOneOrMany is a text or a list of texts.
func schemaOneOrMany() map[string]any {
	return map[string]any{"anyOf": []any{
		map[string]any{"type": scalarTypes},
		map[string]any{"type": "array", "items": map[string]any{"type": scalarTypes}, "minItems": 1},
	}}
}

func schemaText(f *field) map[string]any {
	if f.fromSecret && f.typ == reflect.TypeFor[secret.List]() {
		return schemaOneOrMany()
	}
	switch regex := formats[f.format].regex; {
	case len(f.enum) > 0:
		return orVariable(map[string]any{"enum": f.enum})
	case regex == "" || f.fromSecret:
		return map[string]any{"type": scalarTypes}
	case f.required:
		return orVariable(map[string]any{"type": "string", "pattern": regex})
	default:
		return orVariable(map[string]any{"type": "string", "pattern": regex}, map[string]any{"const": ""})
	}
}

func orVariable(choices ...map[string]any) map[string]any {
	return map[string]any{"anyOf": append(choices, map[string]any{"$ref": "#/$defs/variable"})}
}

func (f *field) schemaBounds(s map[string]any) map[string]any {
	if f.minimum != "" {
		s["minimum"] = json.Number(f.minimum)
	}
	if f.maximum != "" {
		s["maximum"] = json.Number(f.maximum)
	}
	return s
}
