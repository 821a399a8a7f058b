package fuzz

import "testing"

func FuzzSplit(f *testing.F) {
	for split := range splits {
		for _, data := range []string{"", "one\ntwo\r\n\nthr", "\x03one\x00\x03two\x05fo", "xabyabab", "\x00\x02hi\x00\x00", "\xff\xff\xff\xff\xff\xff\xff\xff"} {
			f.Add(append([]byte{byte(split), byte(len(data))}, data...))
		}
	}
	f.Fuzz(func(_ *testing.T, data []byte) { Split(data) })
}

func FuzzReplies(f *testing.F) {
	for _, data := range []string{"", "\x01\x00\x01\x01", "\x02\x03x\x02\x02y\x01\x01\x01\x00", "\x00", "\x01\xff\x01\x00", "\x65", "\x01\x09", "\x05\x00"} {
		f.Add([]byte(data))
	}
	f.Fuzz(func(_ *testing.T, data []byte) { Replies(data) })
}
