package plexdebug

// The buttons, see Page.AllowActions.

import (
	"context"
	"crypto/subtle"
	"errors"
	"net/http"
	"strconv"
	"time"
)

// mostForm is how long a form may be.
const mostForm = 4 << 10

// renewPatience is how long whoever renews a pool waits to see whether it begins. It goes on after
// that.
const renewPatience = 100 * time.Millisecond

// act does what a button is for, and leads back to the page.
func (h *handler) act(w http.ResponseWriter, r *http.Request) {
	if h.token == "" {
		http.Error(w, "actions are not allowed, see Page.AllowActions", http.StatusForbidden)
		return
	}
	if err := h.origin.Check(r); err != nil {
		http.Error(w, err.Error(), http.StatusForbidden)
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, mostForm)
	if err := r.ParseForm(); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if subtle.ConstantTimeCompare([]byte(r.PostForm.Get("token")), []byte(h.token)) != 1 {
		http.Error(w, "the token is not this page's; load it again", http.StatusForbidden)
		return
	}
	index, err := strconv.Atoi(r.PostForm.Get("pool"))
	if err != nil || index < 0 || index >= len(h.pools) {
		http.Error(w, "there is no such pool", http.StatusNotFound)
		return
	}
	p := h.pools[index]
	switch r.PostForm.Get("do") {
	case "retire":
		conn, ok := p.find(r.PostForm.Get("conn"))
		if !ok {
			http.Error(w, "the connection has left the pool already", http.StatusNotFound)
			return
		}
		conn.Retire()
	case "renew":
		ctx, cancel := context.WithTimeout(r.Context(), renewPatience)
		defer cancel()
		if err := p.mux.Renew(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
			http.Error(w, errText(err), http.StatusConflict)
			return
		}
	default:
		http.Error(w, "there is no such action", http.StatusBadRequest)
		return
	}
	p.forget()
	w.Header().Set("Location", h.viewOf(r.URL.Query()).link()) // relative, which http.Redirect would change
	w.WriteHeader(http.StatusSeeOther)
}
