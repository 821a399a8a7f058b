package pools

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"net"
)

// sqlPool is the pool of database/sql, over a driver that can do nothing but
// connect.
type sqlPool struct{ db *sql.DB }

func openSQL(c Config) (Pool, error) {
	db := sql.OpenDB(sqlConnector(c.Dial))
	db.SetMaxOpenConns(c.Max)
	db.SetMaxIdleConns(c.Max)
	return filled(sqlPool{db}, c.Open)
}

func (p sqlPool) Cycle(n int) error {
	ctx := context.Background()
	for range n {
		c, err := p.db.Conn(ctx)
		if err != nil {
			return err
		}
		if err := c.Close(); err != nil {
			return err
		}
	}
	return nil
}

func (p sqlPool) Use(ctx context.Context, f func(net.Conn)) error {
	c, err := p.db.Conn(ctx)
	if err != nil {
		return err
	}
	err = c.Raw(func(conn any) error {
		f(conn.(sqlConn).Conn)
		return nil
	})
	return errors.Join(err, c.Close())
}

func (p sqlPool) Close() { _ = p.db.Close() }

// sqlConnector is a driver that connects by a function.
type sqlConnector func(context.Context) (net.Conn, error)

func (c sqlConnector) Connect(ctx context.Context) (driver.Conn, error) {
	nc, err := c(ctx)
	if err != nil {
		return nil, err
	}
	return sqlConn{nc}, nil
}

func (c sqlConnector) Driver() driver.Driver { return nil }

// sqlConn is a connection that knows no SQL.
type sqlConn struct{ net.Conn }

var errNoSQL = errors.New("this connection is no database's")

func (sqlConn) Prepare(string) (driver.Stmt, error) { return nil, errNoSQL }
func (sqlConn) Begin() (driver.Tx, error)           { return nil, errNoSQL }
