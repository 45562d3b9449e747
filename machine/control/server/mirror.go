package server

import (
	"net/http"

	"github.com/sbx-vm/sbx/machine/control"
)

func (s *Server) mirror(w http.ResponseWriter, r *http.Request) {
	var request control.MirrorRequest
	if err := decode(r, &request); err != nil {
		fail(w, http.StatusBadRequest, err)
		return
	}
	status, err := s.backend.Mirror(r.Context(), request.Do)
	if err != nil {
		fail(w, http.StatusConflict, err)
		return
	}
	answer(w, status)
}

func (s *Server) changes(w http.ResponseWriter, r *http.Request) {
	list, err := s.backend.Changes(r.Context())
	if err != nil {
		fail(w, http.StatusConflict, err)
		return
	}
	answer(w, append([]control.Change{}, list...))
}

func (s *Server) content(w http.ResponseWriter, r *http.Request) {
	both, err := s.backend.Content(r.Context(), r.FormValue("path"))
	if err != nil {
		fail(w, http.StatusConflict, err)
		return
	}
	answer(w, both)
}

func (s *Server) apply(w http.ResponseWriter, r *http.Request) {
	var picks []control.Pick
	if err := decode(r, &picks); err != nil {
		fail(w, http.StatusBadRequest, err)
		return
	}
	done, err := s.backend.Apply(r.Context(), picks)
	if err != nil {
		fail(w, http.StatusConflict, err)
		return
	}
	answer(w, append([]control.Applied{}, done...))
}
