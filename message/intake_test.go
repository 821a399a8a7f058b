package message_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
	"go.atomizer.io/plex/internal/intake"
	"go.atomizer.io/plex/message"
)

// What one read has brought is settled once, before the read lease ends, however the loop is left.
func TestALoopLearnsWhenWhatHasArrivedIsDelivered(t *testing.T) {
	for name, leave := range map[string]func() bool{
		"it goes on":   func() bool { return true },
		"it is left":   func() bool { return false },
		"a body panic": func() bool { panic("body") },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, 1, func(w *world, m *plex.Multiplexer) {
				r := receiver(w, m, message.Lines)
				w.peers[0].SendSegments("1\n2\n", "3\n")
				var told []string
				batch := ""
				ctx := intake.With(w.Context(), intake.Intake{Settled: func() {
					require.Equal(w, 1, m.Stats().LeasedReaders)
					told = append(told, batch)
					batch = ""
				}})
				func() {
					defer func() { _ = recover() }()
					for m, err := range r.All(ctx) {
						require.NoError(w, err)
						batch += string(m.Data)
						if batch == "12" && !leave() || batch == "3" {
							break
						}
					}
				}()
				require.Equal(w, "12", told[0])
				if name == "it goes on" {
					require.Equal(w, []string{"12", "3"}, told)
				}
			})
		})
	}
}

func TestALoopThatKeepsNoMessageIsLentThem(t *testing.T) {
	for _, lend := range []bool{false, true} {
		bubble(t, 1, func(w *world, m *plex.Multiplexer) {
			var split []byte // the latest message where the split function has found it
			r := receiver(w, m, func(data []byte, _ bool) (int, []byte, error) {
				if len(data) == 0 {
					return 0, nil, nil
				}
				split = data[:1]
				return 1, split, nil
			})
			w.peers[0].SendSegments("123")
			ctx := intake.With(w.Context(), intake.Intake{Settled: func() {}, Lend: lend})
			for m, err := range r.All(ctx) {
				require.NoError(w, err)
				require.Equal(w, split, m.Data)
				require.Equal(w, lend, &split[0] == &m.Data[0])
				if string(m.Data) == "3" {
					break
				}
			}
		})
	}
}
