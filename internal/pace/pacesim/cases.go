package pacesim

import "time"

// All returns the cases: the same everyday troubles, for small and large services.
func All() []Case {
	return []Case{
		Rolling(3, 1000, 24, 1),
		Rolling(3, 1000, 24, 0),
		Rolling(10, 1000, 3, 1),
		Gone(30, 1000, 20, 1),
		Bad("one refuses", Server{Refuses: true}, 10, 1000, 20),
		Bad("one accepts and hangs up", Server{HangsUp: 20 * time.Millisecond}, 10, 1000, 20),
		Bad("one answers no connect", Server{Silent: true}, 10, 1000, 20),
		Bad("one answers slowly", Server{Dial: 3 * time.Second}, 10, 1000, 20),
		Flapping(20, 300, 40),
		Growing(30, 300, 60),
		Growing(300, 100, 24),
	}
}

// RollingName is the name of the cases of Rolling.
const RollingName = "rolling restart"

// Rolling restarts one server after the other, each of which is down for some seconds.
func Rolling(addresses, pools, connections, room int) Case {
	const each, down = 20 * time.Second, 5 * time.Second
	return Case{
		Name: RollingName, Addresses: addresses, Pools: pools, Connections: connections, Room: room,
		Length: Ready + time.Duration(addresses)*each + 2*time.Minute,
		Script: func(w *World) {
			for a := range addresses {
				w.At(Ready+time.Duration(a)*each, func() { w.Restart(a, down) })
			}
		},
	}
}

// Gone has a third of the servers die at once, leave the list half a minute later, and come back
// after two minutes.
func Gone(addresses, pools, connections, room int) Case {
	third := max(1, addresses/3)
	return Case{
		Name: "a third is gone", Addresses: addresses, Pools: pools, Connections: connections, Room: room,
		Length: Ready + 5*time.Minute,
		Script: func(w *World) {
			w.At(Ready, func() {
				for a := range third {
					w.Set(a, Server{Refuses: true})
					w.Crash(a)
				}
			})
			w.At(Ready+30*time.Second, func() { w.List(span(third, addresses)) })
			w.At(Ready+2*time.Minute, func() {
				for a := range third {
					w.Set(a, Server{})
				}
				w.List(span(0, addresses))
			})
		},
	}
}

// Bad has a server end all connections and behave badly from then on, for a minute and a half.
func Bad(name string, s Server, addresses, pools, connections int) Case {
	return Case{
		Name: name, Addresses: addresses, Pools: pools, Connections: connections, Room: 1,
		Length: Ready + 5*time.Minute,
		Script: func(w *World) {
			w.At(Ready, func() {
				w.Set(0, s)
				w.Crash(0)
			})
			w.At(Ready+90*time.Second, func() { w.Set(0, Server{}) })
		},
	}
}

// Flapping has the list change back and forth between two halves and all.
func Flapping(addresses, pools, connections int) Case {
	half := addresses / 2
	return Case{
		Name: "the list flaps", Addresses: addresses, Pools: pools, Connections: connections, Room: 1,
		Length: Ready + 4*time.Minute,
		Script: func(w *World) {
			lists := [][]int{span(0, half), span(0, addresses), span(half, addresses), span(0, addresses)}
			for i := range 12 {
				w.At(Ready+time.Duration(i)*7*time.Second, func() { w.List(lists[i%len(lists)]) })
			}
		},
	}
}

// Growing has the list grow from a third to all addresses, and shrink to two thirds.
func Growing(addresses, pools, connections int) Case {
	third := addresses / 3
	return Case{
		Name: "the list grows and shrinks", Addresses: addresses, Pools: pools, Connections: connections, Room: 1,
		Length: Ready + 6*time.Minute,
		Script: func(w *World) {
			w.List(span(0, third))
			w.At(Ready, func() { w.List(span(0, 2*third)) })
			w.At(Ready+time.Minute, func() { w.List(span(0, addresses)) })
			w.At(Ready+3*time.Minute, func() { w.List(span(third, addresses)) })
		},
	}
}
