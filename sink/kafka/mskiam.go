package kafka

import (
	"errors"
	"fmt"
	"regexp"

	"workos-relay/sink/kafka/mskiam"
)

const saslMSKIAM = "aws_msk_iam"

// MSKIAM says how relay logs in to Amazon MSK by IAM.
type MSKIAM struct {
	Region  string `yaml:"region" doc:"AWS region of the cluster, for aws_msk_iam. Empty: that of the broker's name, else AWS_REGION or the shared files." example:"eu-central-1"`
	RoleARN string `yaml:"role_arn" doc:"Role to assume for aws_msk_iam, with the credentials of the environment, shared files, web identity, or metadata of the container or instance. Empty: these credentials themselves."`
}

var (
	regionForm = regexp.MustCompile(`^[a-z]{2,}(-[a-z]+)+-[0-9]+$`)
	roleForm   = regexp.MustCompile(`^arn:aws[a-z-]*:iam::[0-9]{12}:role/.+$`)
)

// validateMSKIAM reports the first fault of the section.
func (s SASL) validateMSKIAM() error {
	fault := func(key, text string) error { return &keyError{"sasl." + key, errors.New(text)} }
	switch {
	case s.Mechanism != saslMSKIAM && s.MSKIAM != MSKIAM{}:
		return fault("mechanism", "sasl.region and sasl.role_arn are for aws_msk_iam: remove them, or set sasl.mechanism to aws_msk_iam")
	case s.Mechanism != saslMSKIAM:
		return nil
	case s.inUse() || s.TokenFile != "" || s.User != "" || s.Password.IsSet():
		return fault("mechanism", "aws_msk_iam takes its credentials from AWS: remove the other keys of sasl")
	case s.Region != "" && !regionForm.MatchString(s.Region):
		return &keyError{"sasl.region", fmt.Errorf("sasl.region %.60q is not a region: write for example eu-central-1", s.Region)}
	case s.RoleARN != "" && !roleForm.MatchString(s.RoleARN):
		return &keyError{"sasl.role_arn", fmt.Errorf("sasl.role_arn %.200q is not the ARN of a role: write arn:aws:iam::123456789012:role/NAME", s.RoleARN)}
	}
	return nil
}

func (c Config) newMSKIAM() *mskiam.Mechanism {
	return mskiam.New(mskiam.Config{
		Region: c.SASL.Region, RoleARN: c.SASL.RoleARN, Session: sessionName(c.RelayID), Timeout: c.tokenTimeout(), Hide: c.Files.Hide,
	})
}

// sessionName returns the name of the role's session, as CloudTrail shows it.
func sessionName(relayID string) string {
	if relayID == "" {
		return ""
	}
	const most = 64
	name := "relay-" + relayID
	return name[:min(len(name), most)]
}
