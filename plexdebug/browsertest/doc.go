// Package browsertest tests the page of package plexdebug in a real browser: a headless Chromium,
// which on Debian is in the package of that name. It is a module of its own, so that users of plex
// do not inherit what drives the browser.
//
// With -screenshots, the tests leave pictures of the page in a directory:
//
//	go test -C plexdebug/browsertest . -args -screenshots pictures -history 3m
package browsertest
