package layers

// What is left inside the layers when all is over. They do not show it, and it is what a leak is made of; so it is
// looked up by name, in the structures of packages message and request.

import (
	"fmt"
	"reflect"
)

// Left counts the entries of a *message.Receiver or a *request.Client that are about something that is over. No
// goroutine may use it any more. It panics if the structures have changed their names, for then nothing is checked.
func Left(layer any) (n int, what string) {
	v := reflect.ValueOf(layer).Elem()
	count := func(of reflect.Value, name string) {
		f := of.FieldByName(name)
		if !f.IsValid() {
			panic(fmt.Sprintf("layers: %v has no field %s any more", of.Type(), name))
		}
		if f.Len() > 0 {
			n += f.Len()
			what += fmt.Sprintf(" %d %s", f.Len(), name)
		}
	}
	if table := v.FieldByName("table"); table.IsValid() {
		count(table, "calls")
		count(table, "links")
		count(v.FieldByName("sessions"), "live")
		v = v.FieldByName("messages").Elem()
	}
	count(v, "iterations")
	count(v, "leftovers")
	count(v, "queue")
	return n, what
}
