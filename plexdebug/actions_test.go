package plexdebug_test

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
	"go.atomizer.io/plex/internal/fakenet"
	"go.atomizer.io/plex/plexdebug"
)

func tokenOf(t testing.TB, page string) string {
	t.Helper()
	return between(t, page, `name="token" value="`, `"`)
}

// keyOf is the form's name of a connection.
func keyOf(t testing.TB, page string, c plex.Conn) string {
	t.Helper()
	before, _, ok := strings.Cut(page, c.LocalAddr().String())
	require.True(t, ok)
	_, id, ok := strings.Cut(before[strings.LastIndex(before, "<tr "):], `id="`)
	require.True(t, ok)
	return id[:strings.Index(id, `"`)]
}

func TestActionsAreOffUnlessAllowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := poolOf(t, 1)
		allowed := get(t, plexdebug.Page{Pools: []*plex.Multiplexer{m}, AllowActions: true}.Handler(), "/")
		h := plexdebug.Handler(m)
		page := get(t, h, "/")
		require.NotContains(t, page, "token")
		for _, token := range []string{"", tokenOf(t, allowed)} {
			answer := post(h, "/", url.Values{"do": {"renew"}, "pool": {"0"}, "token": {token}})
			require.Equal(t, http.StatusForbidden, answer.Code)
			require.Contains(t, answer.Body.String(), "AllowActions")
		}
		time.Sleep(time.Minute)
		require.Zero(t, m.Stats().Retired)
	})
}

func TestAButtonRetiresOneConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := poolOf(t, 3)
		h := plexdebug.Page{Pools: []*plex.Multiplexer{nil, poolOf(t, 1), m}, AllowActions: true}.Handler()
		page := get(t, h, "/?pool=1")
		require.Equal(t, 3, strings.Count(page, "<button>Retire"))
		victim := slices.Collect(m.Conns())[1]
		form := url.Values{"do": {"retire"}, "pool": {"1"}, "conn": {keyOf(t, page, victim)}, "token": {tokenOf(t, page)}}
		answer := post(h, "/?pool=1", form)
		require.Equal(t, http.StatusSeeOther, answer.Code, answer.Body)
		require.Equal(t, "?pool=1", answer.Header().Get("Location"))
		time.Sleep(time.Minute)
		require.EqualValues(t, 1, m.Stats().Retired)
		require.Equal(t, 3, m.Stats().Open, "another is in its place")
		require.NotContains(t, slices.Collect(m.Conns()), victim)
		page = get(t, h, "/?pool=1")
		require.NotContains(t, page, victim.LocalAddr().String())
		require.Contains(t, page, "<b>retired</b> <em>(asked for)</em>")

		answer = post(h, "/", form)
		require.Equal(t, http.StatusNotFound, answer.Code, "it has gone")
	})
}

func TestAButtonRenewsAPool(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := poolOf(t, 3)
		old := slices.Collect(m.Conns())
		w, err := m.Writer(t.Context(), 0)
		require.NoError(t, err)
		h := plexdebug.Page{Pools: []*plex.Multiplexer{m}, AllowActions: true}.Handler()
		page := get(t, h, "/")
		began := time.Now()
		answer := post(h, "/", url.Values{"do": {"renew"}, "pool": {"0"}, "token": {tokenOf(t, page)}})
		require.Equal(t, http.StatusSeeOther, answer.Code, answer.Body)
		require.Less(t, time.Since(began), time.Second, "the answer waits for no lease")
		require.NoError(t, w.Close())
		time.Sleep(time.Minute)
		require.EqualValues(t, 3, m.Stats().Retired)
		for c := range m.Conns() {
			require.NotContains(t, old, c)
		}
	})
}

func TestNobodyElsePressesAButton(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := poolOf(t, 2)
		h := plexdebug.Page{Pools: []*plex.Multiplexer{m}, AllowActions: true}.Handler()
		other := plexdebug.Page{Pools: []*plex.Multiplexer{m}, AllowActions: true}.Handler()
		token := tokenOf(t, get(t, h, "/"))
		require.GreaterOrEqual(t, len(token), 26, "128 bits")
		renew := func(token string) url.Values {
			return url.Values{"do": {"renew"}, "pool": {"0"}, "token": {token}}
		}
		for _, test := range []struct {
			name, target string
			form         url.Values
			header       []string
			code         int
		}{
			{"without a token", "/", url.Values{"do": {"renew"}, "pool": {"0"}}, nil, http.StatusForbidden},
			{"with the token of another page", "/", renew(tokenOf(t, get(t, other, "/"))), nil, http.StatusForbidden},
			{"with the token in the address", "/?token=" + token, url.Values{"do": {"renew"}, "pool": {"0"}}, nil, http.StatusForbidden},
			{"from another site", "/", renew(token), []string{"Sec-Fetch-Site", "cross-site"}, http.StatusForbidden},
			{"from another origin", "/", renew(token), []string{"Origin", "https://elsewhere.example"}, http.StatusForbidden},
			{"with too much", "/", url.Values{"token": {token}, "x": {strings.Repeat("x", 1<<16)}}, nil, http.StatusBadRequest},
			{"for no pool", "/", url.Values{"do": {"renew"}, "pool": {"1"}, "token": {token}}, nil, http.StatusNotFound},
			{"for a pool below", "/", url.Values{"do": {"renew"}, "pool": {"-1"}, "token": {token}}, nil, http.StatusNotFound},
			{"for no connection", "/", url.Values{"do": {"retire"}, "pool": {"0"}, "conn": {"c1"}, "token": {token}}, nil, http.StatusNotFound},
			{"for what there is not", "/", url.Values{"do": {"kill"}, "pool": {"0"}, "token": {token}}, nil, http.StatusBadRequest},
		} {
			answer := post(h, test.target, test.form, test.header...)
			require.Equal(t, test.code, answer.Code, test.name)
		}
		time.Sleep(time.Minute)
		require.Zero(t, m.Stats().Retired)
		require.Equal(t, http.StatusSeeOther, post(h, "/", renew(token), "Sec-Fetch-Site", "same-origin").Code)
	})
}

func TestWhatCannotBeRenewedSaysWhy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := fakenet.Pair()
		m, err := plex.New(t.Context(), plex.WithConnections(c))
		require.NoError(t, err)
		defer m.Close()
		h := plexdebug.Page{Pools: []*plex.Multiplexer{m}, AllowActions: true}.Handler()
		answer := post(h, "/", url.Values{"do": {"renew"}, "pool": {"0"}, "token": {tokenOf(t, get(t, h, "/"))}})
		require.Equal(t, http.StatusConflict, answer.Code)
		require.Contains(t, answer.Body.String(), "WithConnector")
	})
}
