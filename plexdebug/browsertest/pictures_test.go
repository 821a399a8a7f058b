package browsertest

import (
	"time"

	"go.atomizer.io/plex"
)

// show has something happen, and takes pictures of it.
func show(b *browser, s *service, busy *plex.Multiplexer, address string) {
	work(b.t, busy, 9, 40*time.Millisecond)
	work(b.t, busy, 2, 20*time.Second)
	b.size(desktop, 1100, "light")
	b.open(address)
	end := time.Now().Add(*history)
	for i := 0; time.Now().Before(end); i++ {
		time.Sleep(7 * time.Second)
		if i%4 == 3 {
			s.breakSome(2)
		}
	}
	w, err := busy.Writer(b.t.Context(), time.Minute)
	if err == nil {
		_ = w.Kill()
	}
	b.await(is(`text("#events").includes("killed")`))
	for _, scheme := range []string{"light", "dark"} {
		b.size(desktop, 1100, scheme)
		time.Sleep(2 * time.Second)
		b.picture("desktop-" + scheme)
		b.size(phone, 844, scheme)
		time.Sleep(2 * time.Second)
		b.picture("phone-" + scheme)
	}
}
