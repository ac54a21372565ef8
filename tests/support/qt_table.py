"""A Qt table of jobs that follows the live table in its own thread; run by the tests, offscreen."""

import threading
from functools import partial

from PySide6.QtCore import QAbstractTableModel, QModelIndex, Qt, QTimer
from PySide6.QtWidgets import QApplication, QTableView

import park
from park.client.live_table import how_far

HEADS = ("job", "state", "done")


class Jobs(QAbstractTableModel):
    """A row a job, in the order in which they came."""

    def __init__(self, table, window):
        super().__init__(window)
        self.rows, self.threads = [], set()
        self.end = table.subscribe(
            self.changed, call_soon=lambda f, *a: QTimer.singleShot(0, self, partial(f, *a))
        )

    def changed(self, old, new):
        self.threads.add(threading.get_ident())
        record = old if new is None else new
        if not isinstance(record, park.JobRecord):
            return
        at = next((i for i, row in enumerate(self.rows) if row.job == record.job), None)
        if at is None:
            self.beginInsertRows(QModelIndex(), len(self.rows), len(self.rows))
            self.rows.append(new)
            self.endInsertRows()
        elif new is None:
            self.beginRemoveRows(QModelIndex(), at, at)
            del self.rows[at]
            self.endRemoveRows()
        else:
            self.rows[at] = new
            self.dataChanged.emit(self.index(at, 0), self.index(at, len(HEADS) - 1))

    def rowCount(self, parent=None):
        return len(self.rows)

    def columnCount(self, parent=None):
        return len(HEADS)

    def headerData(self, section, orientation, role=Qt.DisplayRole):
        if role == Qt.DisplayRole and orientation == Qt.Horizontal:
            return HEADS[section]

    def data(self, index, role=Qt.DisplayRole):
        if role == Qt.DisplayRole:
            record = self.rows[index.row()]
            return (record.job, record.state.value, how_far(record))[index.column()]


app = QApplication([])
view = QTableView()
with park.local_service as service:
    model = Jobs(service.table, view)
    view.setModel(model)
    view.show()
    service.start(abs, range(-100, 0))
    service.start(str)

    def look():
        if len(model.rows) == 2 and all(row.state.ended for row in model.rows):
            app.quit()

    timer = QTimer(view, interval=10, timeout=look)
    timer.start()
    QTimer.singleShot(20_000, app.quit)
    app.exec()
    print([[model.data(model.index(r, c)) for c in range(3)] for r in range(model.rowCount())])
    print(model.threads == {threading.get_ident()})
