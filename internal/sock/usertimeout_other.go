//go:build !linux

package sock

import (
	"errors"
	"time"
)

// HasUserTimeout says whether SetUserTimeout can work on this system.
const HasUserTimeout = false

// SetUserTimeout returns [errors.ErrUnsupported]: only Linux has the option.
func (s Socket) SetUserTimeout(time.Duration) error { return errors.ErrUnsupported }
