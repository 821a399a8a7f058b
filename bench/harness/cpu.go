package harness

import "time"

var began = time.Now()
