package peer

import (
	"context"
	"net"
	"sync"
)

// DialObserved connects over TCP. closed, if it is not nil, is called with the
// client's address when the connection is closed on this side: by then whoever
// owns it knows of its end.
func DialObserved(ctx context.Context, address string, closed func(client string)) (net.Conn, error) {
	nc, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil || closed == nil {
		return nc, err
	}
	return &observed{TCPConn: nc.(*net.TCPConn), closed: closed}, nil
}

type observed struct {
	*net.TCPConn
	once   sync.Once
	closed func(client string)
}

func (o *observed) Close() error {
	o.once.Do(func() { o.closed(o.LocalAddr().String()) })
	return o.TCPConn.Close()
}
