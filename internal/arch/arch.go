package arch

import "fmt"

// Family is one entry of the table of model families: everything that smelt
// knows about it is in the file that defines it.
type Family struct {
	// Name is the general.architecture of its GGUF files.
	Name string
	// decoder completes the description of the forward pass from the
	// architecture's metadata.
	decoder func(d *Decoder, m *params)
}

// Families is the table, in the order in which they are listed for people.
var Families = []*Family{
	llamaFamily,
}

func byName(arch string) *Family {
	for _, f := range Families {
		if f.Name == arch {
			return f
		}
	}
	return nil
}

// maxLayers bounds the number of layers: far above any model, low enough that a
// wrong number is found before it is looped over.
const maxLayers = 10000

// failure is how the functions that families are written with report an error:
// they panic with it, and the exported functions return it. A family's code
// then reads as a description.
type failure struct{ error }

func fail(format string, args ...any) { panic(failure{fmt.Errorf(format, args...)}) }

// catch turns a failure into an error.
func catch(err *error) {
	switch r := recover().(type) {
	case nil:
	case failure:
		*err = r.error
	default:
		panic(r)
	}
}
