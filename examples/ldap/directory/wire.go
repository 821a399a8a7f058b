package directory

import (
	"fmt"
	"slices"

	ber "github.com/go-asn1-ber/asn1-ber"

	"go.atomizer.io/plex/request"
)

// MaxMessage is the length of the longest message in bytes. A longer one costs its connection.
const MaxMessage = 4 << 20

// Messages have 31 bits for their number. 0 is for what the server says unasked, and the last is kept for what abandons
// others: it is answered by nothing, so it can be used any number of times.
const (
	firstID   = 1
	lastID    = 1<<31 - 2
	abandonID = 1<<31 - 1
)

// The kinds of messages, which are application tags.
const (
	bindRequest     ber.Tag = 0
	bindResponse    ber.Tag = 1
	searchRequest   ber.Tag = 3
	searchEntry     ber.Tag = 4
	searchDone      ber.Tag = 5
	compareRequest  ber.Tag = 14
	compareResponse ber.Tag = 15
	abandonRequest  ber.Tag = 16
	searchReference ber.Tag = 19
	intermediate    ber.Tag = 25
)

// The codes of results that are no errors.
const success, compareFalse, compareTrue = 0, 5, 6

// operation is a request without its number.
type operation struct {
	tag  ber.Tag
	body []*ber.Packet
}

// frame is the whole message.
func (o operation) frame(id uint64) []byte {
	body := ber.Encode(ber.ClassApplication, ber.TypeConstructed, o.tag, nil, "")
	for _, part := range o.body {
		body.AppendChild(part)
	}
	return sequence(integer(id), body).Bytes()
}

// operation is what goes over the wire for a search.
func (s Search) operation() operation {
	attributes := sequence()
	for _, a := range s.Attributes {
		attributes.AppendChild(octets(a))
	}
	filter := s.Filter
	if filter == nil {
		filter = Present("objectClass") // which all have
	}
	const neverDereference, noTimeLimit, valuesToo = 0, 0, false
	return operation{searchRequest, []*ber.Packet{
		octets(s.Base), enumerated(int64(s.Scope)), enumerated(neverDereference), integer(s.Limit), integer(noTimeLimit),
		ber.NewBoolean(ber.ClassUniversal, ber.TypePrimitive, ber.TagBoolean, valuesToo, ""),
		filter(), attributes,
	}}
}

// Filter says which entries a search finds.
type Filter func() *ber.Packet

// Present finds entries that have an attribute.
func Present(attribute string) Filter {
	return func() *ber.Packet { return ber.NewString(ber.ClassContext, ber.TypePrimitive, 7, attribute, "") }
}

// Equal finds entries that have a value of an attribute.
func Equal(attribute, value string) Filter {
	return func() *ber.Packet { return tagged(3, octets(attribute), octets(value)) }
}

// And finds entries that all filters find.
func And(filters ...Filter) Filter {
	return func() *ber.Packet {
		p := tagged(0)
		for _, f := range filters {
			p.AppendChild(f())
		}
		return p
	}
}

// Not finds the entries that a filter does not.
func Not(f Filter) Filter { return func() *ber.Packet { return tagged(2, f()) } }

func tagged(tag ber.Tag, parts ...*ber.Packet) *ber.Packet {
	return with(ber.Encode(ber.ClassContext, ber.TypeConstructed, tag, nil, ""), parts)
}

func sequence(parts ...*ber.Packet) *ber.Packet { return with(ber.NewSequence(""), parts) }

func with(p *ber.Packet, parts []*ber.Packet) *ber.Packet {
	for _, part := range parts {
		p.AppendChild(part)
	}
	return p
}

func octets(s string) *ber.Packet {
	return ber.NewString(ber.ClassUniversal, ber.TypePrimitive, ber.TagOctetString, s, "")
}

func integer(n any) *ber.Packet {
	return ber.NewInteger(ber.ClassUniversal, ber.TypePrimitive, ber.TagInteger, n, "")
}

func enumerated(n int64) *ber.Packet {
	return ber.NewInteger(ber.ClassUniversal, ber.TypePrimitive, ber.TagEnumerated, n, "")
}

// protocol tells package request what LDAP looks like.
type protocol struct{}

// Append appends a request with its number, from firstID to lastID.
func (protocol) Append(dst []byte, id uint64, o operation) ([]byte, error) {
	return append(dst, o.frame(id)...), nil
}

// AppendCancel appends what has the server abandon a request. It answers neither.
func (protocol) AppendCancel(dst []byte, id uint64, _ operation) ([]byte, error) {
	abandon := ber.NewInteger(ber.ClassApplication, ber.TypePrimitive, abandonRequest, id, "")
	return append(dst, sequence(integer(uint64(abandonID)), abandon).Bytes()...), nil
}

// Split finds the end of a message.
func (protocol) Split(data []byte, _ bool) (advance int, token []byte, err error) {
	n, err := size(data)
	if err != nil || n > len(data) {
		return 0, nil, err
	}
	return n, data[:n:n], nil
}

// size is the size of the message that data begins with, or more than that of data if not even that is known. In LDAP all
// lengths are definite.
func size(data []byte) (int, error) {
	const sequenceTag, long = 0x30, 0x80
	if len(data) < 2 {
		return 2, nil
	}
	if data[0] != sequenceTag {
		return 0, fmt.Errorf("ldap: a message begins with %#x, not with a sequence", data[0])
	}
	n, head := int(data[1]), 2
	if n&long != 0 {
		head += n &^ long
		if head < 3 || head > 6 {
			return 0, fmt.Errorf("ldap: a length of %d bytes", head-2)
		}
		if len(data) < head {
			return head, nil
		}
		n = 0
		for _, b := range data[2:head] {
			n = n<<8 | int(b)
			if n > MaxMessage {
				return 0, fmt.Errorf("ldap: a message of more than %d bytes", MaxMessage)
			}
		}
	}
	return head + n, nil
}

// Parse is for protocols whose requests have one reply. This one has ParsePart.
func (protocol) Parse(message []byte) (uint64, reply, error) {
	id, r, _, err := protocol{}.ParsePart(message)
	return id, r, err
}

// ParsePart finds out which request a message belongs to, and whether it is the last that does.
func (protocol) ParsePart(message []byte) (id uint64, r reply, last bool, err error) {
	n, r, err := parse(message)
	switch {
	case err != nil:
		return 0, r, false, err
	case n == 0:
		return 0, r, false, request.ErrNotReply // such as that the server is about to close the connection
	}
	more := r.tag == searchEntry || r.tag == searchReference || r.tag == intermediate
	return uint64(n), r, !more, nil
}

// reply is a message from the server. Only its head has been looked at: the goroutine that asked takes the rest apart, so
// that those who read for everybody are not held up, and what makes no sense fails one request.
type reply struct {
	tag     ber.Tag
	message []byte
}

// parse looks at the head of a whole message: its number, and what kind it is.
func parse(message []byte) (id int64, r reply, err error) {
	const (
		integerTag  = 0x02
		application = 0x40 // with 0x20 for what has parts, above the five bits of the tag
	)
	at := 2 // behind the length
	if message[1]&0x80 != 0 {
		at += int(message[1] &^ 0x80)
	}
	m := message[at:]
	if len(m) < 4 || m[0] != integerTag || m[1] < 1 || m[1] > 4 || len(m) < 3+int(m[1]) {
		return 0, r, fmt.Errorf("ldap: a message has no number: %.9x", m)
	}
	n := int(m[1])
	for _, b := range m[2 : 2+n] {
		id = id<<8 | int64(b)
	}
	kind := m[2+n]
	if id > lastID || kind&0xc0 != application {
		return 0, r, fmt.Errorf("ldap: a message has the number %d and the kind %#x", id, kind)
	}
	return id, reply{ber.Tag(kind & 0x1f), message}, nil
}

// parts takes apart what is behind the head.
func (r reply) parts(least int) ([]*ber.Packet, error) {
	p, err := ber.DecodePacketErr(r.message)
	switch {
	case err != nil:
		return nil, fmt.Errorf("ldap: a message makes no sense: %w", err)
	case len(p.Children) < 2 || len(p.Children[1].Children) < least:
		return nil, fmt.Errorf("ldap: a message of kind %d has less than its %d parts", r.tag, least)
	}
	return p.Children[1].Children, nil
}

// result returns the code of a result, and an error if it is none of those expected.
func (r reply) result(expected ...int64) (code int64, err error) {
	parts, err := r.parts(3)
	if err != nil {
		return 0, err
	}
	code, ok := parts[0].Value.(int64)
	if !ok || !slices.Contains(expected, code) {
		return code, &ResultError{Code: code, Message: parts[2].Data.String()}
	}
	return code, nil
}

// entry takes an entry apart.
func (r reply) entry() (e Entry, err error) {
	parts, err := r.parts(2)
	if err != nil {
		return e, err
	}
	e = Entry{parts[0].Data.String(), make(map[string][]string)}
	for _, attribute := range parts[1].Children {
		if len(attribute.Children) < 2 {
			return e, fmt.Errorf("ldap: an attribute of %d parts in %q", len(attribute.Children), e.DN)
		}
		values := make([]string, 0, len(attribute.Children[1].Children))
		for _, value := range attribute.Children[1].Children {
			values = append(values, value.Data.String())
		}
		e.Attributes[attribute.Children[0].Data.String()] = values
	}
	return e, nil
}
