package stdout

// Config is what New needs to know.
type Config struct {
	TopicPrefix string `yaml:"topic_prefix" example:"acme." doc:"Put before each routed topic and the dead letter, as it stands."`
	Envelope    bool   `yaml:"envelope" default:"false" doc:"Write each message as {topic, key, headers, body} instead of its body alone."`
}
