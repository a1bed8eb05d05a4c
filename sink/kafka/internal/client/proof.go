package client

import (
	"bytes"
	"encoding/binary"
	"strings"

	"github.com/segmentio/kafka-go/protocol"
)

// proof is what a connection has sent last to log in: it holds a password, a token or a signature.
type proof []byte

const (
	mostProof = 64 << 10
	// What is shorter proves nothing, or is a word of the protocol that a message may hold as well.
	leastPart, leastWord = 4, 12
)

// add adds to the proof what is written of a SASL request.
func (p *proof) add(b []byte) { *p = append(*p, b[:min(len(b), mostProof-len(*p))]...) }

// mask overwrites in an answer, behind its correlation id, what repeats a part of the proof, if the
// answer is a refusal: its text is shown.
func (p proof) mask(key protocol.ApiKey, answer []byte) {
	const code = 4 // where the error code begins
	if key != protocol.SaslAuthenticate || len(answer) < code+2 || binary.BigEndian.Uint16(answer[code:]) == 0 {
		return
	}
	text := answer[code+2:]
	for _, split := range []struct {
		at    string
		least int
	}{{"\x00\x01", leastPart}, {"\x00\x01 \"=,:", leastWord}} {
		for part := range bytes.FieldsFuncSeq(p, func(r rune) bool { return strings.ContainsRune(split.at, r) }) {
			if len(part) >= split.least {
				overwrite(text, part)
			}
		}
	}
}

// overwrite puts asterisks for each occurrence of part.
func overwrite(text, part []byte) {
	for i := bytes.Index(text, part); i >= 0; i = bytes.Index(text, part) {
		copy(text[i:], bytes.Repeat([]byte("*"), len(part)))
		text = text[i+len(part):]
	}
}
